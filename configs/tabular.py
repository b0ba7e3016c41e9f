"""Your own table: a .csv, .tsv, .txt, .csv.gz or .npz file, or one of the bundled tables iris and wine.

    jaxnets train tabular --data.path my.csv --data.target price

The file's dialect is detected; flags override it (--data.delimiter, --data.decimal, --data.missing, --data.words ...). The
target column decides between classes and numbers. Without flags it trains on wine: test accuracy at least 0.95, in seconds.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Tabular
from jaxnets.models import MLP
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import Supervised

EXPECTED = Expected(metric="accuracy", at_least=0.95, minutes=0.2)
PARAMETERS = 547


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Supervised(model=MLP(widths=(32,))),
        data=Tabular(path="wine"),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=0.3, schedule=WarmupCosine(warmup=0.05)),
        steps=500,
        batch_size=32,
        log_every=10,
        eval_every=50,
        save_every=250,
    )
