"""MNIST with a small conditional DCGAN, which gets the digit as label: five epochs, for a CPU.

    jaxnets train mnist_dcgan
    jaxnets generate runs/mnist_dcgan

Data through JAXNETS_DATA, else downloaded once (11 MB). With our classifier's features, 2,000 samples have a Frechet
distance of at most 9: `python -m benchmarks.samples runs/mnist_lenet runs/mnist_dcgan --layer dense_1 --count 2000`.
For a GPU, not run yet: `--steps 18720 --task.model.features 128 64 --task.critic.features 64 128
--optimizer.learning-rate 2e-4 --average.decay 0.999`.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import MNIST
from jaxnets.models import DCGANCritic, DCGANGenerator
from jaxnets.optim import EMA, Adam
from jaxnets.tasks import Adversarial

EXPECTED = Expected(metric="frechet_distance", at_least=None, at_most=9, minutes=24)  # by benchmarks/samples.py
PARAMETERS = 307_170


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Adversarial(
            model=DCGANGenerator(features=(64, 32)),
            critic=DCGANCritic(features=(32, 64), norm="none"),
            latent=64,
            penalty=1.0,  # R1
            conditional=True,
        ),
        data=MNIST(scale="signed"),
        optimizer=Adam(learning_rate=5e-4, b1=0.5),
        steps=2340,  # 5 epochs
        batch_size=128,
        average=EMA(decay=0.99),
        log_every=117,
        eval_every=1170,
        sample_every=390,
        save_every=1170,
    )
