"""The architecture of Mixtral 8x7B: 46.7 billion parameters, 12.9 of them for a token.

    jaxnets estimate mixtral_8x7b --on v5p:32 --mesh.data 1 --mesh.fsdp 4 --mesh.expert 8
    jaxnets plan mixtral_8x7b --chips v5p:64
    jaxnets train mixtral_8x7b --mesh.data 1 --mesh.fsdp -1

Sizes of the published model (32 layers, width 4,096, 32 heads, 8 key heads, 8 experts of which 2 for each token).
Not run yet: it is meant to be estimated and planned, and to be trained where the devices are. The data are those
of `llama_1b`, with their vocabulary in place of the published 32,000.
"""

from jaxnets.config import Experiment
from jaxnets.data import GPT2Tokens
from jaxnets.models import Experts, LanguageModel
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.steps.precision import Precision
from jaxnets.tasks import NextToken

PARAMETERS = 46_852_354_048


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    model = LanguageModel(
        layers=32, width=4096, heads=32, kv_heads=8, mlp_dim=14_336, length=4096, positions="rotary",
        rope_theta=1_000_000.0, norm="rms", mlp="swiglu", biases="none",
        experts=Experts(count=8, routing="capacity", capacity=1.25),
        embedding="untied", blocks="scanned", remat="blocks",
    )  # fmt: skip
    return Experiment(
        task=NextToken(model=model),
        data=GPT2Tokens("books", length=4096),
        optimizer=AdamW(
            learning_rate=3e-4, weight_decay=0.1, b2=0.95, clip_norm=1.0, schedule=WarmupCosine(warmup=0.05)
        ),
        precision=Precision("bfloat16"),
        steps=2000,
        batch_size=64,
        eval_every=500,
        eval_batch_size=64,
        log_every=10,
    )
