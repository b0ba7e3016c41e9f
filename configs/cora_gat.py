"""Cora with a graph attention network: classify the papers of a citation graph from 140 labels.

    jaxnets train cora_gat

Test accuracy at least 0.815, in two minutes. Data through JAXNETS_DATA, else downloaded once (0.6
MB). The whole graph is one example, so it trains on one device; on D devices add `--data.copies D --batch-size D`.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Cora
from jaxnets.models import GAT
from jaxnets.optim import EMA, Adam
from jaxnets.tasks import NodeClassification

EXPECTED = Expected(metric="accuracy", at_least=0.815, minutes=2)
PARAMETERS = 92_373


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=NodeClassification(model=GAT(widths=(8,), heads=8, dropout=0.6), l2=5e-4),
        data=Cora(),
        optimizer=Adam(learning_rate=5e-3),
        steps=400,
        batch_size=1,
        average=EMA(decay=0.99),
        eval_batch_size=1,
        log_every=10,
        eval_every=50,
        save_every=400,
    )
