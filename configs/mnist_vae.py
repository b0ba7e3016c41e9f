"""MNIST with a variational autoencoder with 20 latent dims; the score is the evidence lower bound in nats per image.

    jaxnets train mnist_vae

Pixels in [0, 1] are read as probabilities. Data through JAXNETS_DATA, else downloaded once (11 MB). Test ELBO at least -105,
in about five minutes on two CPU cores.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import MNIST
from jaxnets.models import VAE
from jaxnets.optim import EMA, AdamW, WarmupCosine
from jaxnets.tasks import Variational

EXPECTED = Expected(metric="elbo", at_least=-105.0, minutes=5)
PARAMETERS = 1_082_680


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Variational(model=VAE(widths=(512, 256), latent=20), warmup=1200),
        data=MNIST(scale="unit"),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=1e-4, schedule=WarmupCosine(warmup=0.02)),
        steps=12000,  # 25 epochs
        batch_size=125,
        average=EMA(decay=0.999),
        log_every=120,
        eval_every=1200,
        sample_every=2400,
        save_every=3000,
    )
