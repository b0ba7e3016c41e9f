"""MNIST with denoising diffusion: a small U-Net, the cosine schedule, sampled in 50 steps; 2,000 updates, for a CPU.

    jaxnets train mnist_ddpm
    jaxnets generate runs/mnist_ddpm

Data through JAXNETS_DATA, else downloaded once (11 MB). Samples are scored by a classifier of ours:
`python -m benchmarks.samples runs/mnist_lenet runs/mnist_ddpm --layer dense_1`. For a GPU, not run yet: `--steps 23440
--task.model.features 64 128 128 --task.model.blocks 2 --optimizer.learning-rate 1e-3 --average.decay 0.9995
--precision.compute bfloat16`.
"""

from jaxnets.config import Experiment
from jaxnets.data import MNIST
from jaxnets.models import UNet
from jaxnets.optim import EMA, AdamW, WarmupCosine
from jaxnets.tasks import Diffusion

PARAMETERS = 162_657


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Diffusion(model=UNet(features=(16, 32, 32), blocks=1)),
        data=MNIST(scale="signed"),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=1e-4, clip_norm=1.0, schedule=WarmupCosine(warmup=0.02)),
        steps=2000,
        batch_size=128,
        average=EMA(decay=0.995),
        log_every=117,
        eval_every=1000,
        save_every=1000,
    )
