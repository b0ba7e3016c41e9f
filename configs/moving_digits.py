"""Predict the next frame of a film of two moving digits, with a convolutional LSTM.

    jaxnets train moving_digits

Films made from the bundled digits, no download. `gain` is the mean squared error of repeating the last frame, divided by
the model's: at least 2. Eight minutes on two CPU cores under heavy load (seven times as much other work).
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import MovingDigits
from jaxnets.models import ConvLSTMForecaster
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import NextFrame

EXPECTED = Expected(metric="gain", at_least=2.0, minutes=8)
PARAMETERS = 267_140


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=NextFrame(model=ConvLSTMForecaster(features=(32,), kernel=5, patch=2)),
        data=MovingDigits(size=32, seen=6),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=0.0, clip_norm=1.0, schedule=WarmupCosine(warmup=0.05)),
        steps=300,
        batch_size=16,
        log_every=25,
        eval_every=100,
        save_every=150,
    )
