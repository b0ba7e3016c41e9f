"""The architecture of Llama 3.2 1B: 1.24 billion parameters, blocks in one scan, with rematerialisation.

    jaxnets summary llama_1b
    jaxnets train llama_1b --mesh.fsdp 8

Sizes of the published model (16 layers, width 2,048, 32 heads, 8 key heads, vocabulary 128,256, tied), at 2,048 tokens.
Not run yet: it is meant for several GPUs or TPUs. Its tokenizer may not be redistributed, so the data are the
books as GPT-2 tokens, which use 50,257 of the ids.
"""

from jaxnets.config import Experiment
from jaxnets.data import GPT2Tokens
from jaxnets.models import LanguageModel
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.steps.precision import Precision
from jaxnets.tasks import NextToken

PARAMETERS = 1_235_814_400


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    model = LanguageModel(
        vocab_size=128_256, layers=16, width=2048, heads=32, kv_heads=8, mlp_dim=8192, length=2048, positions="rotary",
        rope_theta=500_000.0, rope_scaling=(32.0, 1.0, 4.0, 8192.0), norm="rms", mlp="swiglu", biases="none",
        blocks="scanned", remat="blocks",
    )  # fmt: skip
    return Experiment(
        task=NextToken(model=model),
        data=GPT2Tokens("books", length=2048),
        optimizer=AdamW(
            learning_rate=3e-4, weight_decay=0.1, b2=0.95, clip_norm=1.0, schedule=WarmupCosine(warmup=0.05)
        ),
        precision=Precision("bfloat16"),
        steps=2000,
        batch_size=16,
        eval_every=500,
        eval_batch_size=16,
        log_every=10,
    )
