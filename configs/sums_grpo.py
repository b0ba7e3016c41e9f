"""Sums such as 7+5=12, learned from rewards alone: a language model that sees no answer (GRPO).

    jaxnets train sums_grpo

Made here. Each step samples 32 answers to each of 20 sums and rewards the share of right digits. The score is that reward on
20 sums of 100 that it never practised: at least 0.5 (guessing gives 0.08), in a minute on two CPU cores. Two updates with
each set of samples: --task.turns 2. A leash to the first model: --task.kl 0.05.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Sums
from jaxnets.models import LanguageModel
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import GRPO

EXPECTED = Expected(metric="reward", at_least=0.5, minutes=1)
PARAMETERS = 51_392


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=GRPO(model=LanguageModel(layers=1, width=64, heads=4, length=8), group=32),
        data=Sums(),
        optimizer=AdamW(learning_rate=1e-3, schedule=WarmupCosine()),
        steps=1000,
        batch_size=20,
        log_every=20,
        eval_every=200,
        save_every=500,
    )
