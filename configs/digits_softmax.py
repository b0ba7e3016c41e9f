"""Handwritten digits, 8x8, with softmax regression: ten linear units, no hidden layer.

    jaxnets train digits_softmax

Bundled data, no download. Test accuracy at least 0.94, in seconds.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Digits
from jaxnets.models import MLP
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import Classification

EXPECTED = Expected(metric="accuracy", at_least=0.94, minutes=0.2)
PARAMETERS = 650


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Classification(model=MLP(widths=())),  # without hidden layers the model is linear
        data=Digits(),
        optimizer=AdamW(learning_rate=1e-2, weight_decay=1e-2, schedule=WarmupCosine(warmup=0.05)),
        steps=1100,
        batch_size=64,
        log_every=22,
        eval_every=110,
        save_every=550,
    )
