"""Eight Gaussians on a circle with a generative adversarial network: does the generator cover all modes?

    jaxnets train ring_gan

Synthetic data. The score is the number of modes with at least 1/32 of the samples within three standard deviations: at least
7, in about a minute on two CPU cores. The loss is logistic with an R1 penalty; for the Wasserstein loss:
--task.objective wasserstein --task.critic-steps 5 --batch-size 640 --steps 3000.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Ring
from jaxnets.data.sources.ring import ring_centres
from jaxnets.models import MLP
from jaxnets.optim import EMA, Adam, WarmupCosine
from jaxnets.tasks import Adversarial

EXPECTED = Expected(metric="modes", at_least=7, minutes=1.5)
PARAMETERS = 67_971


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Adversarial(
            model=MLP(widths=(128, 128, 128)),
            critic=MLP(widths=(128, 128, 128)),
            latent=8,
            penalty=0.1,
            modes=ring_centres(8, 2.0),
            mode_radius=0.15,
        ),
        data=Ring(modes=8, radius=2.0, deviation=0.05),
        optimizer=Adam(learning_rate=1e-3, b1=0.0, b2=0.9, schedule=WarmupCosine(warmup=0.0)),
        steps=5000,
        batch_size=256,
        average=EMA(decay=0.99),
        log_every=100,
        eval_every=1000,
        sample_every=1000,
        save_every=5000,
    )
