"""ResNet-50 in torchvision's recipe of 2021 ("How to Train State-Of-The-Art Models Using TorchVision's Latest Primitives").

    jaxnets estimate resnet50_torchvision --on h100:8
    jaxnets train resnet50_torchvision --data.path imagenet

600 epochs with SGD, trained at 176 pixels and evaluated at 224 (FixRes, Touvron et al. 2019). Not run yet: it is meant for a
host of GPUs; torchvision reports an accuracy of .80858. The flag of each method is in docs/techniques.md, section "Recipes".
Other than the original: images are augmented at 224 pixels and then resized to 176; test images are resized to 224 and not
cropped; mixup or CutMix is drawn for each example, not for a batch; the bias of the last layer does not decay; repeated
augmentation is not there.
"""

from jaxnets.config import Experiment
from jaxnets.data import Augment, ImageFolder
from jaxnets.models import ResNet
from jaxnets.optim import EMA, SGD, WarmupCosine
from jaxnets.steps.precision import Precision
from jaxnets.tasks import Classification
from jaxnets.training.ramp import Ramp

PARAMETERS = 25_557_032


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    augment = Augment(crop=0.08, flip=True, policy="trivial", erase=0.1, mixup=0.2, cutmix=1.0)
    return Experiment(
        task=Classification(model=ResNet(depth=50), label_smoothing=0.1),
        data=ImageFolder("imagenet", augment=augment, threads=16),
        optimizer=SGD(learning_rate=0.5, weight_decay=2e-5, schedule=WarmupCosine(warmup=5 / 600)),
        # torchvision averages every 32 steps, with a decay of .99998 that it adapts to the batch: .99997 for each step.
        average=EMA(decay=0.99997),
        ramp=Ramp(resolution=(176,), until=1.0),
        precision=Precision("bfloat16"),
        steps=750_600,  # 600 epochs of ImageNet
        batch_size=1024,
        eval_every=12_510,
        save_every="30min",
    )
