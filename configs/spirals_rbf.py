"""Two interlocking spirals with radial basis functions: units that respond to a local region.

    jaxnets train spirals_rbf

Data made from a seed. Test accuracy at least 0.97, in seconds.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import TwoSpirals
from jaxnets.models import RBF
from jaxnets.optim import Adam, WarmupCosine
from jaxnets.tasks import Classification

EXPECTED = Expected(metric="accuracy", at_least=0.97, minutes=0.2)
PARAMETERS = 322


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Classification(model=RBF(centres=64, width=0.5)),
        data=TwoSpirals(),
        optimizer=Adam(learning_rate=3e-2, schedule=WarmupCosine(warmup=0.05)),
        steps=1500,
        batch_size=100,
        log_every=50,
        eval_every=250,
        save_every=750,
    )
