"""Cora, the citation graph, with a graph attention network: classes of papers from 140 labels.

    jaxnets train cora_gat

Data through JAXNETS_DATA, else downloaded once (0.6 MB). The whole graph is one example, on one device.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Cora
from jaxnets.models import GAT
from jaxnets.optim import Adam
from jaxnets.tasks import NodeClassification

EXPECTED = Expected(metric="accuracy", at_least=0.825, minutes=2)


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=NodeClassification(model=GAT(widths=(8,), heads=8, dropout=0.6), l2=5e-4),
        data=Cora(),
        optimizer=Adam(learning_rate=5e-3),
        steps=300,
        batch_size=1,
        eval_batch_size=1,
        log_every=10,
        eval_every=50,
        save_every=300,
    )
