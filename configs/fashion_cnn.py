"""Fashion-MNIST with a convolutional network.

    jaxnets train fashion_cnn

Data through JAXNETS_DATA, else downloaded once (29 MB). Test accuracy at least 0.93, in about nine minutes on two CPU cores.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Augment, FashionMNIST
from jaxnets.models import CNN
from jaxnets.optim import AdamW, WarmupLinear
from jaxnets.tasks import Classification

EXPECTED = Expected(metric="accuracy", at_least=0.93, minutes=9)
PARAMETERS = 824_554


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Classification(model=CNN(features=(32, 64), batch_norm=True, dense=(256,), dropout=0.1)),
        data=FashionMNIST(augment=Augment(shift=1, flip=True)),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=2e-2, schedule=WarmupLinear(warmup=0.2)),
        steps=5616,  # 12 epochs
        batch_size=128,
        log_every=117,
        eval_every=468,
        save_every=1404,
    )
