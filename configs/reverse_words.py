"""Reverse words letter by letter with a small encoder-decoder transformer.

    jaxnets train reverse_words
    jaxnets generate runs/reverse_words --prompt "backwards"

Tokens are letters; no test word is in training. The score is the share of test words that greedy decoding reverses without a
mistake. Expected: exact ≥ 0.95 (1.0 was reached) in two minutes on two CPU cores. Data through JAXNETS_DATA, else
downloaded (1 MB).
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import ReversedWords
from jaxnets.models import Seq2SeqTransformer
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import SequenceToSequence

EXPECTED = Expected(metric="exact", at_least=0.95, minutes=2)
PARAMETERS = 237_568


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=SequenceToSequence(model=Seq2SeqTransformer(layers=2, width=64, heads=4, length=16)),
        data=ReversedWords(),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=0.01, clip_norm=1.0, schedule=WarmupCosine(warmup=0.05)),
        steps=2000,
        batch_size=64,
        eval_every=500,
        log_every=100,
    )
