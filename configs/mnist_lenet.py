"""MNIST with the original LeNet-5: tanh and average pooling.

    jaxnets train mnist_lenet

Data through JAXNETS_DATA, else downloaded once (11 MB). Test accuracy at least 0.99; .9931 with seed 0, in six
minutes on two CPU cores that also had other work.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import MNIST, Augment
from jaxnets.models import LeNet5
from jaxnets.optim import AdamW, WarmupLinear
from jaxnets.tasks import Classification

EXPECTED = Expected(metric="accuracy", at_least=0.99, minutes=6)
PARAMETERS = 61_706


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Classification(model=LeNet5()),
        data=MNIST(augment=Augment(shift=2)),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=1e-2, schedule=WarmupLinear(warmup=0.2)),
        steps=4680,  # 10 epochs
        batch_size=128,
        log_every=117,
        eval_every=468,
        save_every=1170,
    )
