"""The recipe of `resnet50_torchvision` in small: handwritten digits, trained at 7 pixels and evaluated at 8.

    jaxnets train digits_torchvision

Bundled data. Test accuracy at least 0.85, in under a minute on two CPU cores. All methods of the recipe but flips, which make
other digits. The small size is for large images: here it blurs strokes that are one pixel wide. With training at the full size
(--ramp.resolution, without a value) the accuracy is 0.99.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Augment, Digits
from jaxnets.models import CifarResNet
from jaxnets.optim import EMA, SGD, WarmupCosine
from jaxnets.tasks import Classification
from jaxnets.training.ramp import Ramp

EXPECTED = Expected(metric="accuracy", at_least=0.85, minutes=1)
PARAMETERS = 75_002


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Classification(model=CifarResNet(depth=8, width=16), label_smoothing=0.1),
        data=Digits(augment=Augment(crop=0.5, policy="trivial", erase=0.1, mixup=0.2, cutmix=1.0)),
        optimizer=SGD(learning_rate=0.1, weight_decay=2e-5, schedule=WarmupCosine(warmup=0.05)),
        average=EMA(decay=0.98),
        ramp=Ramp(resolution=(7,), until=1.0),
        steps=1100,
        batch_size=64,
        log_every=50,
        eval_every=275,
        save_every=550,
    )
