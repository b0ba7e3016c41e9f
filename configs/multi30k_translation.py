"""Translate German photo captions into English with a small encoder-decoder transformer.

    jaxnets train multi30k_translation
    jaxnets generate runs/multi30k_translation --prompt "Ein Hund läuft über das Feld." --beam 4

Tokens are lower-case words. The score is corpus BLEU of these tokens on the 2016 test set, with greedy decoding; an unknown
word counts as wrong. Expected: bleu ≥ 28 (30.4 was reached, 30.9 with a beam of 4) in nine minutes on two CPU cores that also
had other work, after two passes over the training pairs. Data through JAXNETS_DATA, else downloaded (1 MB).
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Multi30k
from jaxnets.models import Seq2SeqTransformer
from jaxnets.optim import AdamW, WarmupCosine
from jaxnets.tasks import SequenceToSequence

EXPECTED = Expected(metric="bleu", at_least=28, minutes=9)
PARAMETERS = 2_563_840


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    return Experiment(
        task=SequenceToSequence(
            model=Seq2SeqTransformer(layers=2, width=128, heads=4, length=48), label_smoothing=0.1, written="bleu"
        ),
        data=Multi30k(source="de", target="en", length=20),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=0.01, clip_norm=1.0, schedule=WarmupCosine(warmup=0.1)),
        steps=900,
        batch_size=64,
        eval_batch_size=250,
        log_every=100,
    )
