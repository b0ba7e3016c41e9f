"""A GPT of ten million parameters on Shakespeare, one character at a time: nanoGPT's setting for a GPU.

    jaxnets train shakespeare_char_gpu
    jaxnets generate runs/shakespeare_char_gpu --prompt "ROMEO:"

nanoGPT reports a validation loss of 1.4697, the best of all its evaluations; here the last evaluation counts. As in
nanoGPT, positions are learned and there are no biases; unlike there, dropout does not act on attention weights. Meant for
a GPU, not run yet: the goal is 1.47. Data through JAXNETS_DATA, else downloaded (1 MB).
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Text
from jaxnets.models import LanguageModel
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.steps.precision import Precision
from jaxnets.tasks import NextToken

EXPECTED = Expected(metric="loss", at_least=None, at_most=1.47, minutes=5, hardware="one GPU")
PARAMETERS = 10_750_080


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=NextToken(model=LanguageModel(layers=6, heads=6, width=384, length=256, biases="none", dropout=0.2)),
        data=Text(length=256, stride=8),
        optimizer=AdamW(
            learning_rate=1e-3, weight_decay=0.1, b2=0.99, clip_norm=1.0, schedule=WarmupCosine(warmup=0.02, final=0.1)
        ),
        precision=Precision(compute="bfloat16"),
        steps=5000,
        batch_size=64,
        eval_every=250,
        eval_batch_size=128,
        log_every=50,
    )
