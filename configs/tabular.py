"""A table of your own: a .csv, .csv.gz or .npz file, or one of the bundled tables iris and wine.

    jaxnets train tabular --data.path my.csv --data.target price

Classes or numbers, as the target column asks. With no flags it trains on iris: test accuracy at least 0.9, in seconds.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Tabular
from jaxnets.models import MLP
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import Supervised

EXPECTED = Expected(metric="accuracy", at_least=0.9, minutes=0.5)


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Supervised(model=MLP(widths=(64, 64), dropout=0.1)),
        data=Tabular(path="iris"),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=1e-2, schedule=WarmupCosine(warmup=0.05)),
        steps=1000,
        batch_size=32,
        log_every=20,
        eval_every=100,
        save_every=500,
    )
