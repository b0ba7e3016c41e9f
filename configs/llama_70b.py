"""The architecture of Llama 3.1 70B: 70.6 billion parameters, at 4,096 tokens, for 64 or more accelerators.

    jaxnets estimate llama_70b --on v5p:64 --mesh.data 1 --mesh.fsdp 64
    jaxnets plan llama_70b --chips v5e:256
    jaxnets train llama_70b --mesh.data 1 --mesh.fsdp -1

Sizes of the published model (80 layers, width 8,192, 64 heads, 8 key heads, vocabulary 128,256, untied). Not run yet: it is
meant to be estimated and planned, and to be trained where the devices are. The data are those of `llama_1b`.
"""

from jaxnets.config import Experiment
from jaxnets.data import GPT2Tokens
from jaxnets.models import LanguageModel
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.steps.precision import Precision
from jaxnets.tasks import NextToken

PARAMETERS = 70_553_706_496


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    model = LanguageModel(
        vocab_size=128_256, layers=80, width=8192, heads=64, kv_heads=8, mlp_dim=28_672, length=4096, positions="rotary",
        rope_theta=500_000.0, rope_scaling=(8.0, 1.0, 4.0, 8192.0), norm="rms", mlp="swiglu", biases="none",
        embedding="untied", blocks="scanned", remat="blocks",
    )  # fmt: skip
    return Experiment(
        task=NextToken(model=model),
        data=GPT2Tokens("books", length=4096),
        optimizer=AdamW(
            learning_rate=1.5e-4, weight_decay=0.1, b2=0.95, clip_norm=1.0, schedule=WarmupCosine(warmup=0.05)
        ),
        precision=Precision("bfloat16"),
        steps=2000,
        batch_size=256,
        eval_every=500,
        eval_batch_size=256,
        log_every=10,
    )
