"""ResNet-50, 26 million parameters, on a folder of images by class (ImageNet's, say).

    jaxnets estimate resnet50 --on h100:8
    jaxnets train resnet50 --data.path imagenet

Recipe of Goyal et al. (2017) for 90 epochs: Nesterov momentum, .1 for each 256 examples of a batch after a warm-up, weight
decay 1e-4. Images are resized to 224 pixels and flipped; random crops are not part of it. Not run yet: it is meant for a host
of GPUs.
"""

from jaxnets.config import Experiment
from jaxnets.data import Augment, ImageFolder
from jaxnets.models import ResNet
from jaxnets.optim import SGD, WarmupCosine
from jaxnets.steps.precision import Precision
from jaxnets.tasks import Classification

PARAMETERS = 25_557_032


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Classification(model=ResNet(depth=50), label_smoothing=0.1),
        data=ImageFolder("imagenet", augment=Augment(flip=True), threads=16),
        optimizer=SGD(learning_rate=0.8, nesterov=True, weight_decay=1e-4, schedule=WarmupCosine(warmup=0.055)),
        precision=Precision("bfloat16"),
        steps=56_300,  # 90 epochs of ImageNet
        batch_size=2048,
        eval_every=3130,
        save_every="30min",
    )
