"""MNIST with denoising diffusion: a small U-Net with the digit as label, cosine schedule, 50 guided steps; for a CPU.

    jaxnets train mnist_ddpm
    jaxnets generate runs/mnist_ddpm
    jaxnets generate runs/mnist_ddpm --label 7 --guidance 4

Data through JAXNETS_DATA, else downloaded once (11 MB). Half an hour on two CPU cores. With our classifier's features, 2,000
samples have a Frechet distance of at most 7: `python -m benchmarks.samples runs/mnist_lenet runs/mnist_ddpm --layer dense_1
--count 2000`. For a GPU, not run yet: `--steps 23440
--batch-size 128 --task.model.patch 1 --task.model.features 64 128 128 --task.model.blocks 2 --optimizer.learning-rate 1e-3
--average.decay 0.9995 --precision.compute bfloat16`.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import MNIST
from jaxnets.models import UNet
from jaxnets.optim import EMA, AdamW, WarmupCosine
from jaxnets.tasks import Diffusion

EXPECTED = Expected(metric="frechet_distance", at_least=None, at_most=7, minutes=30)  # by benchmarks/samples.py
PARAMETERS = 402_436


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Diffusion(model=UNet(features=(32, 64), blocks=1, patch=2), conditional=True, guidance=2.0),
        data=MNIST(scale="signed"),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=1e-4, clip_norm=1.0, schedule=WarmupCosine(warmup=0.02)),
        steps=8000,
        batch_size=64,
        average=EMA(decay=0.999),
        log_every=100,
        eval_every=4000,
        sample_every=2000,
        save_every=1000,
    )
