"""CIFAR-10 with ResNet-9 and its original recipe (Page 2018), 24 epochs; meant for a GPU.

    jaxnets train cifar10_resnet9

Data through JAXNETS_DATA, else downloaded once (170 MB). The goal is a test accuracy of at least 0.94; not run
here yet. Page's recipe (steps, batch, rates, decay, crop after mirrored padding, flip, cutout) plus label smoothing and
averaged weights, as in his later versions.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import CIFAR10, Augment
from jaxnets.models import ResNet9
from jaxnets.optim import EMA, SGD, WarmupLinear
from jaxnets.steps.precision import Precision
from jaxnets.tasks import Classification

EXPECTED = Expected(metric="accuracy", at_least=0.94, minutes=2, hardware="one GPU")
PARAMETERS = 6_573_120


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Classification(model=ResNet9(), label_smoothing=0.1),
        data=CIFAR10(augment=Augment(shift=4, padding="reflect", flip=True, cutout=8)),
        # Warm up for 5 of 24 epochs, then decay to 0.
        optimizer=SGD(learning_rate=0.4, nesterov=True, weight_decay=5e-4, schedule=WarmupLinear(warmup=5 / 24)),
        steps=2328,
        batch_size=512,
        average=EMA(decay=0.99),
        precision=Precision(compute="bfloat16"),
        log_every=97,
        eval_every=485,
        save_every=970,
    )
