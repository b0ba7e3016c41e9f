"""Three recurrent blocks and one of local attention on Shakespeare, one character at a time.

    jaxnets train shakespeare_hybrid
    jaxnets generate runs/shakespeare_hybrid --prompt "ROMEO:"

Griffin's blocks (De et al. 2024). shakespeare_hybrid_twin has attention only, with the same number of parameters, data,
steps and optimizer. Test loss at most 1.72 nats; mean of three seeds 1.660, of the twin 1.684. Data
through JAXNETS_DATA, else downloaded (1 MB).
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Text
from jaxnets.models import HybridLanguageModel
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import NextToken

EXPECTED = Expected(metric="loss", at_least=None, at_most=1.72, minutes=3)
PARAMETERS = 800_000


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=NextToken(
            model=HybridLanguageModel(layers=4, width=128, heads=4, kv_heads=None, window=32, mlp_dim=358, mlp="swiglu")
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
    )
