"""MNIST with a small convolutional network.

    jaxnets train mnist_cnn

Data through JAXNETS_DATA, else downloaded once (11 MB). Test accuracy at least 0.994, in five to ten minutes on two CPU cores.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import MNIST, Augment
from jaxnets.models import CNN
from jaxnets.optim import AdamW, WarmupLinear
from jaxnets.tasks import Classification

EXPECTED = Expected(metric="accuracy", at_least=0.994, minutes=5)
PARAMETERS = 421_642


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Classification(model=CNN(features=(32, 64), dense=(128,), dropout=0.25)),
        data=MNIST(augment=Augment(shift=2)),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=1e-2, schedule=WarmupLinear(warmup=0.2)),
        steps=4680,  # 10 epochs
        batch_size=128,
        log_every=117,
        eval_every=468,
        save_every=1170,
    )
