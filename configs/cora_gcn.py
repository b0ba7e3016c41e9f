"""Cora with a graph convolutional network: classify the papers of a citation graph from 140 labels.

    jaxnets train cora_gcn

Test accuracy at least 0.81, in a minute. Data through JAXNETS_DATA, else downloaded once (0.6
MB). The whole graph is one example, so it trains on one device; on D devices add `--data.copies D --batch-size D`.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Cora
from jaxnets.models import GCN
from jaxnets.optim import Adam
from jaxnets.tasks import NodeClassification

EXPECTED = Expected(metric="accuracy", at_least=0.81, minutes=1)
PARAMETERS = 23_063


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=NodeClassification(model=GCN(widths=(16,), dropout=0.5), l2=5e-4),
        data=Cora(),
        optimizer=Adam(learning_rate=1e-2),
        steps=200,
        batch_size=1,
        eval_batch_size=1,
        log_every=10,
        eval_every=50,
        save_every=200,
    )
