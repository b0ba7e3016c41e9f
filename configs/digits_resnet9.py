"""The recipe of `cifar10_resnet9` (Page 2018) in small: handwritten digits, 8x8, 24 epochs with a narrow ResNet-9.

    jaxnets train digits_resnet9

Bundled data. Test accuracy at least 0.98, in under a minute on two CPU cores. All methods of the recipe but flips, which make
other digits.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Augment, Digits
from jaxnets.models import ResNet9
from jaxnets.optim import EMA, SGD, WarmupLinear
from jaxnets.tasks import Classification

EXPECTED = Expected(metric="accuracy", at_least=0.98, minutes=1)
PARAMETERS = 412_656


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Classification(model=ResNet9(width=16), label_smoothing=0.1),
        data=Digits(augment=Augment(shift=1, padding="reflect", cutout=2)),
        optimizer=SGD(learning_rate=0.4, nesterov=True, weight_decay=5e-4, schedule=WarmupLinear(warmup=5 / 24)),
        steps=528,
        batch_size=64,
        average=EMA(decay=0.99),
        log_every=22,
        eval_every=132,
        save_every=264,
    )
