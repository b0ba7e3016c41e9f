"""MNIST with denoising diffusion: a small U-Net, the cosine schedule, sampled in 50 steps; meant for a GPU.

    jaxnets train mnist_ddpm --precision.compute bfloat16

Data through JAXNETS_DATA, else downloaded once (11 MB). Not run yet. Samples are scored by a classifier of ours:
`python -m benchmarks.samples runs/mnist_cnn runs/mnist_ddpm`.
"""

from jaxnets.config import Experiment
from jaxnets.data import MNIST
from jaxnets.models import UNet
from jaxnets.optim import EMA, AdamW, WarmupCosine
from jaxnets.tasks import Diffusion

PARAMETERS = 4_478_657


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Diffusion(model=UNet(features=(64, 128, 128), blocks=2)),
        data=MNIST(scale="signed"),
        optimizer=AdamW(learning_rate=1e-3, weight_decay=1e-4, clip_norm=1.0, schedule=WarmupCosine(warmup=0.02)),
        steps=23440,  # 50 epochs
        batch_size=128,
        average=EMA(decay=0.9995),
        log_every=117,
        eval_every=2344,
        save_every=4688,
    )
