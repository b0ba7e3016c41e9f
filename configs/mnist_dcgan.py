"""MNIST with a convolutional generative adversarial network that is told the digit; meant for a GPU.

    jaxnets train mnist_dcgan

Data through JAXNETS_DATA, else downloaded once (11 MB). Not run yet. Samples are scored by a classifier of ours:
`python -m benchmarks.samples runs/mnist_cnn runs/mnist_dcgan`.
"""

from jaxnets.config import Experiment
from jaxnets.data import MNIST
from jaxnets.models import DCGANCritic, DCGANGenerator
from jaxnets.optim import EMA, Adam
from jaxnets.tasks import Adversarial

PARAMETERS = 745_410


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Adversarial(
            model=DCGANGenerator(features=(128, 64)),
            critic=DCGANCritic(features=(64, 128), norm="none"),
            latent=64,
            penalty=1.0,  # R1
            conditional=True,
        ),
        data=MNIST(scale="signed"),
        optimizer=Adam(learning_rate=2e-4, b1=0.5),
        steps=18720,  # 40 epochs
        batch_size=128,
        average=EMA(decay=0.999),
        log_every=117,
        eval_every=2340,
        save_every=4680,
    )
