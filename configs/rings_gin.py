"""Graph classification with a graph isomorphism network: does the chord of a ring close a triangle?

    jaxnets train rings_gin

Synthetic data (500 graphs of 6 to 14 nodes), no download. Test accuracy at least 0.99, in seconds.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Rings
from jaxnets.models import GIN
from jaxnets.optim import AdamW
from jaxnets.tasks import GraphClassification

EXPECTED = Expected(metric="accuracy", at_least=0.99, minutes=0.5)
PARAMETERS = 1477


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=GraphClassification(model=GIN(widths=(16, 16, 16))),
        data=Rings(),
        optimizer=AdamW(learning_rate=1e-2),
        steps=300,
        batch_size=40,
        log_every=10,
        eval_every=50,
        save_every=300,
    )
