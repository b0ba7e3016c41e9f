"""The perceptron learning rule on two separable classes of iris: setosa or not.

    jaxnets train perceptron

Bundled data. Test accuracy at least 0.95, in seconds.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Tabular
from jaxnets.models import Perceptron
from jaxnets.tasks import PerceptronRule

EXPECTED = Expected(metric="accuracy", at_least=0.95, minutes=0.2)
PARAMETERS = 5


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=PerceptronRule(model=Perceptron()),
        data=Tabular(path="iris", only=("setosa", "versicolor")),
        steps=50,
        batch_size=16,
        log_every=5,
        eval_every=10,
        save_every=50,
    )
