"""Digits with a denoising autoencoder: 64 pixels to 8 numbers and back, with some input pixels set to 0.

    jaxnets train digits_ae

Bundled data. The score is the explained share of the clean pixels' variance: at least 0.8, in half a minute on two CPU
cores. Without masking: --task.masked 0. A linear autoencoder, which finds the principal components: --task.model.widths
(without numbers).
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Digits
from jaxnets.models import Autoencoder
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import Reconstruction

EXPECTED = Expected(metric="explained", at_least=0.8, minutes=0.5)
PARAMETERS = 34_248


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=Reconstruction(model=Autoencoder(widths=(128, 64), code=8), masked=0.2),
        data=Digits(),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=1e-4, schedule=WarmupCosine()),
        steps=4500,  # 100 epochs
        batch_size=32,
        log_every=45,
        eval_every=450,
        save_every=2250,
    )
