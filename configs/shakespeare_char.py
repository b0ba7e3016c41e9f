"""A small GPT on Shakespeare, one character at a time.

    jaxnets train shakespeare_char
    jaxnets generate runs/shakespeare_char --prompt "ROMEO:"

nanoGPT's setting for a CPU, which reaches 1.88 nats per character there. Data through JAXNETS_DATA, else downloaded
(1 MB).
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Text
from jaxnets.models import LanguageModel
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import NextToken

EXPECTED = Expected(metric="loss", at_least=None, at_most=1.88, minutes=3)
PARAMETERS = 797_056


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=NextToken(
            model=LanguageModel(layers=4, heads=4, width=128, length=256, positions="rotary", biases="none")
        ),
        data=Text(length=64),
        optimizer=AdamW(
            learning_rate=1e-3, weight_decay=0.1, b2=0.99, clip_norm=1.0, schedule=WarmupCosine(warmup=0.05)
        ),
        steps=2000,
        batch_size=12,
        eval_every=500,
        sample_every=500,
        eval_batch_size=128,
        log_every=50,
    )
