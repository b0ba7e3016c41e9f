"""The smallest GPT-2: 124 million parameters, on whole books as GPT-2 tokens.

    jaxnets summary gpt2_124m
    jaxnets train gpt2_124m

Shape and optimizer as in nanoGPT (vocabulary 50,257, 12 layers, width 768, 1,024 tokens; bfloat16, no dropout). Not run yet:
it is meant for a GPU or a TPU. The 27 books (3.7 million tokens, through JAXNETS_DATA) are far too few for a model of this
size: use your own text with `data=Text(path=..., tokens="gpt2", length=1024)` in a copy of this file.
"""

from jaxnets.config import Experiment
from jaxnets.data import GPT2Tokens
from jaxnets.models import LanguageModel
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.steps.precision import Precision
from jaxnets.tasks import NextToken

PARAMETERS = 124_439_808


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=NextToken(model=LanguageModel(vocab_size=50_257, layers=12, width=768, heads=12, length=1024)),
        data=GPT2Tokens("books", length=1024),
        optimizer=AdamW(
            learning_rate=6e-4, weight_decay=0.1, b2=0.95, clip_norm=1.0, schedule=WarmupCosine(warmup=0.05)
        ),
        precision=Precision("bfloat16"),
        steps=2000,
        batch_size=32,
        micro_batches=8,
        eval_every=500,
        eval_batch_size=32,
        log_every=10,
    )
