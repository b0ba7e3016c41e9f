"""Forecast the oil temperature of a transformer for 24 hours from the last 96 (ETTh1), with a gated recurrent unit.

    jaxnets train etth1_forecast

Data through JAXNETS_DATA, else downloaded once. The split of Informer: 12, 4 and 4 months. The squared error of the
better naive forecast (repeat the last value or the last day) is at least 1.1 times ours; a minute on two CPU cores.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Series
from jaxnets.models import RNN
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import Forecasting

EXPECTED = Expected(metric="gain", at_least=1.1, minutes=1)
PARAMETERS = 14_296


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Forecasting(model=RNN(cell="gru", widths=(64,), dropout=0.1), season=24),
        data=Series(path="etth1", columns=("OT",), history=96, horizon=24, parts=(8640, 2880, 2880)),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=1e-2, clip_norm=1.0, schedule=WarmupCosine(warmup=0.05)),
        steps=600,
        batch_size=64,
        log_every=25,
        eval_every=100,
        save_every=300,
    )
