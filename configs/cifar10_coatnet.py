"""CIFAR-10 with a small hybrid of convolution and attention; steps, data and recipe are those of `cifar10_vit`.

    jaxnets train cifar10_coatnet

Data through JAXNETS_DATA, else downloaded once (170 MB). One epoch, for a comparison with cifar10_vit: 174,838 parameters
here, 174,922 there. Test accuracy at least 0.50, in about six minutes on two CPU cores.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import CIFAR10, Augment
from jaxnets.models import CoAtNet
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import Classification

EXPECTED = Expected(metric="accuracy", at_least=0.50, minutes=6)
PARAMETERS = 174_838


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Classification(model=CoAtNet()),
        data=CIFAR10(augment=Augment(shift=4, flip=True)),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=5e-2, clip_norm=1.0, schedule=WarmupCosine(warmup=0.1)),
        steps=781,  # 1 epoch
        batch_size=64,
        log_every=71,
        save_every=400,
    )
