"""The twin of shakespeare_hybrid: attention in every block, with the same number of parameters.

    jaxnets train shakespeare_hybrid_twin

For comparison: width, layers, data, steps and optimizer are those of shakespeare_hybrid, and the MLP width is chosen to
match its number of parameters. Test loss at most 1.72 nats. Data through JAXNETS_DATA, else
downloaded (1 MB).
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Text
from jaxnets.models import LanguageModel
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import NextToken

EXPECTED = Expected(metric="loss", at_least=None, at_most=1.72, minutes=3)
PARAMETERS = 800_000


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=NextToken(
            model=LanguageModel(
                layers=4, width=128, heads=4, mlp_dim=344, length=256,
                positions="rotary", norm="rms", mlp="swiglu", biases="none",
            )
        ),
        data=Text(length=64),
        optimizer=AdamW(
            learning_rate=3e-3, weight_decay=0.1, b2=0.99, clip_norm=1.0, schedule=WarmupCosine(warmup=0.05)
        ),
        steps=2000,
        batch_size=12,
        eval_every=500,
        eval_batch_size=128,
        log_every=50,
    )  # fmt: skip
