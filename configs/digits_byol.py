"""Digits without labels: an embedding that predicts what a following copy of itself says of another view (BYOL).

    jaxnets train digits_byol

Bundled data. Labels are only used for the score: the share of test images whose label is that of their five nearest
neighbours, at least 0.93, in a minute on two CPU cores. Views, encoder and steps are those of digits_simclr. Without
normalisation in the heads: --task.projector.norm none --task.predictor.norm none.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Digits
from jaxnets.models import CNN
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import BYOL, Views

EXPECTED = Expected(metric="knn", at_least=0.93, minutes=1)
PARAMETERS = 126_656


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=BYOL(model=CNN(features=(32, 64), dense=(128,)), views=Views(crop=0.5, contrast=0.3, noise=0.3)),
        data=Digits(),
        optimizer=AdamW(learning_rate=2e-3, schedule=WarmupCosine(warmup=0.05)),
        steps=600,
        batch_size=128,
        log_every=20,
        eval_every=100,
        save_every=300,
    )
