"""MNIST with a multilayer perceptron.

    jaxnets train mnist_mlp

Data through JAXNETS_DATA, else downloaded once (11 MB). Test accuracy at least 0.984, in a minute or two on two CPU cores.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import MNIST
from jaxnets.models import MLP
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import Classification

EXPECTED = Expected(metric="accuracy", at_least=0.984, minutes=1)
PARAMETERS = 669_706


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Classification(model=MLP(widths=(512, 512), dropout=0.3, input_dropout=0.1)),
        data=MNIST(),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=1e-2, schedule=WarmupCosine(warmup=0.05)),
        steps=9360,  # 20 epochs
        batch_size=128,
        log_every=117,
        eval_every=468,
        save_every=2340,
    )
