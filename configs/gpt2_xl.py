"""GPT-2 XL's shape: 1.6 billion parameters, on whole books as GPT-2 tokens.

    jaxnets estimate gpt2_xl --on v5e:4x4
    jaxnets train gpt2_xl

Shape as published (Radford et al. 2019: 48 layers, width 1,600, 25 heads, vocabulary 50,257, 1,024 tokens), optimizer as in
`gpt2_124m`. Not run yet: it is meant for 16 TPU chips or 8 GPUs, and for a text of your own (`data=Text(...)` in a copy of
this file).
"""

from jaxnets.config import Experiment
from jaxnets.data import GPT2Tokens
from jaxnets.models import LanguageModel
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.parallel import MeshShape
from jaxnets.steps.precision import Precision
from jaxnets.tasks import NextToken

PARAMETERS = 1_557_611_200


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    model = LanguageModel(
        vocab_size=50_257, layers=48, width=1600, heads=25, length=1024, blocks="scanned", remat="products_with_weights"
    )
    return Experiment(
        task=NextToken(model=model),
        data=GPT2Tokens("books", length=1024),
        optimizer=AdamW(
            learning_rate=2e-4, weight_decay=0.1, b2=0.95, clip_norm=1.0, schedule=WarmupCosine(warmup=0.05)
        ),
        precision=Precision("bfloat16"),
        mesh=MeshShape(data=1, fsdp=-1),
        steps=2000,
        batch_size=64,
        eval_every=500,
        eval_batch_size=64,
        log_every=10,
    )
