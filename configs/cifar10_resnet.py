"""CIFAR-10 with a wide 20-layer residual network; meant for a GPU or TPU.

    jaxnets train cifar10_resnet --precision.compute bfloat16

Data through JAXNETS_DATA, else downloaded once (170 MB). Test accuracy at least 0.94.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import CIFAR10, Augment
from jaxnets.models import CifarResNet
from jaxnets.optim import EMA, SGD, WarmupCosine
from jaxnets.tasks import Classification

EXPECTED = Expected(metric="accuracy", at_least=0.94, minutes=5, hardware="one GPU")
PARAMETERS = 4_286_026


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Classification(model=CifarResNet(depth=20, width=64), label_smoothing=0.1),
        data=CIFAR10(augment=Augment(shift=4, flip=True, cutout=8)),
        optimizer=SGD(learning_rate=0.4, nesterov=True, weight_decay=5e-4, schedule=WarmupCosine(warmup=0.1)),
        steps=3900,  # 40 epochs
        batch_size=512,
        average=EMA(decay=0.999),
        log_every=97,
        eval_every=485,
        save_every=975,
    )
