"""ViT-L/16's shape: 304 million parameters, on a folder of images by class (ImageNet's, say).

    jaxnets estimate vit_l16 --on v5e:4x4
    jaxnets train vit_l16 --data.path imagenet

Shape as published (Dosovitskiy et al. 2021: patches of 16 pixels, 24 layers, width 1,024, 16 heads). Images are resized to
224 pixels and flipped; random crops and mixtures of images are not part of it. Not run yet: it is meant for a host of TPUs or
GPUs.
"""

from jaxnets.config import Experiment
from jaxnets.data import Augment, ImageFolder
from jaxnets.models import ViT
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.parallel import MeshShape
from jaxnets.steps.precision import Precision
from jaxnets.tasks import Classification

PARAMETERS = 304_326_632


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    model = ViT(patch=16, layers=24, width=1024, heads=16, dropout=0.1, remat="products_with_weights")
    return Experiment(
        task=Classification(model=model, label_smoothing=0.1),
        data=ImageFolder("imagenet", augment=Augment(flip=True), threads=16),
        optimizer=AdamW(learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0, schedule=WarmupCosine(warmup=0.1)),
        precision=Precision("bfloat16"),
        mesh=MeshShape(data=1, fsdp=-1),
        steps=94_000,  # 300 epochs of ImageNet
        batch_size=4096,
        micro_batches=4,
        eval_every=3130,
        save_every="30min",
    )
