"""A small GPT with four experts in place of each MLP, on Shakespeare, one character at a time.

    jaxnets train shakespeare_moe
    jaxnets generate runs/shakespeare_moe --prompt "ROMEO:"

shakespeare_char with half the hidden units in each expert and two experts per token: the same number of active
parameters per token, and twice as many MLP parameters in total. Test loss at most 1.88 nats. Data through JAXNETS_DATA, else
downloaded (1 MB).
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Text
from jaxnets.models import Experts, LanguageModel
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import NextToken

EXPECTED = Expected(metric="loss", at_least=None, at_most=1.88, minutes=5)
PARAMETERS = 1_323_392


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=NextToken(
            model=LanguageModel(
                layers=4, heads=4, width=128, length=256, mlp_dim=256, positions="rotary", biases="none",
                experts=Experts(count=4, per_token=2),
            )
        ),
        data=Text(length=64),
        optimizer=AdamW(
            learning_rate=1e-3, weight_decay=0.1, b2=0.99, clip_norm=1.0, schedule=WarmupCosine(warmup=0.05)
        ),
        steps=2000,
        batch_size=12,
        eval_every=500,
        eval_batch_size=128,
        log_every=50,
    )  # fmt: skip
