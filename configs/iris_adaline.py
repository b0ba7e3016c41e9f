"""The adaptive linear neuron on two kinds of iris that are not linearly separable: versicolor and virginica.

    jaxnets train iris_adaline

Bundled data. Test accuracy at least 0.85, in seconds.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Tabular
from jaxnets.models import Perceptron
from jaxnets.optim import SGD
from jaxnets.tasks import Adaline

EXPECTED = Expected(metric="accuracy", at_least=0.85, minutes=0.2)
PARAMETERS = 5


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Adaline(model=Perceptron()),
        data=Tabular(path="iris", only=("versicolor", "virginica")),
        optimizer=SGD(learning_rate=0.05, momentum=0.0),
        steps=300,
        batch_size=16,
        log_every=10,
        eval_every=50,
        save_every=300,
    )
