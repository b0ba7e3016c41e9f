"""Digits with four labels of each class, and the other 1,398 images without (FixMatch).

    jaxnets train digits_fixmatch

Bundled data. Test accuracy at least 0.9, in a minute on two CPU cores. The 40 labels alone: --task.weight 0.
Other labels: --data.seed 1. More of them: --data.each 10.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Digits, FewLabels
from jaxnets.models import CNN
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import FixMatch, Views

EXPECTED = Expected(metric="accuracy", at_least=0.9, minutes=1)
PARAMETERS = 53_002


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=FixMatch(
            model=CNN(features=(32, 64), dense=(128,)),
            weak=Views(crop=0.8, noise=0.0),
            strong=Views(crop=0.6, contrast=0.2, noise=0.2),
            threshold=0.9,
        ),
        data=FewLabels(of=Digits(), each=4),
        optimizer=AdamW(learning_rate=2e-3, schedule=WarmupCosine(warmup=0.05)),
        steps=800,
        batch_size=128,
        log_every=20,
        eval_every=100,
        save_every=400,
    )
