"""Two LSTM layers on Shakespeare, one character at a time.

    jaxnets train shakespeare_lstm
    jaxnets generate runs/shakespeare_lstm --prompt "ROMEO:"

Data, steps and batches as in `shakespeare_char`, whose transformer has nearly as many parameters. Test loss at most 1.76
nats, in two to three minutes on two CPU cores. Data through JAXNETS_DATA, else downloaded (1 MB).
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Text
from jaxnets.models import RNN
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import NextToken

EXPECTED = Expected(metric="loss", at_least=None, at_most=1.76, minutes=3)
PARAMETERS = 874_881


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=NextToken(model=RNN(cell="lstm", widths=(256, 256), embedding=64, answer="every")),
        data=Text(length=64),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=0.0, clip_norm=1.0, schedule=WarmupCosine(warmup=0.05)),
        steps=2000,
        batch_size=12,
        eval_every=500,
        eval_batch_size=128,
        log_every=50,
    )
