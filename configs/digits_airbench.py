"""The recipe of `cifar10_airbench` (Jordan 2024) in small: handwritten digits, 8x8, with two blocks.

    jaxnets train digits_airbench

Bundled data. Test accuracy at least 0.98, in under a minute on two CPU cores. All methods of the recipe but flips and mirrored
test images, because mirrored digits are others; the rate is a quarter of the original's.
"""

from jaxnets.config import Expected, Experiment
from jaxnets.data import Augment, Digits
from jaxnets.models import AirBench
from jaxnets.optim import SGD, ByPath, Lookahead, OneCycle, Until
from jaxnets.tasks import Classification

EXPECTED = Expected(metric="accuracy", at_least=0.98, minutes=1)
PARAMETERS = 67_656
RATE, DECAY = 0.375, 0.002


def config() -> Experiment:
    """The experiment; any field can be overridden by a flag."""
    rules = (("whitening/bias", Until(sgd(), "3ep")), (".*/norm_./bias", sgd(64)), (".*", sgd()))
    return Experiment(
        task=Classification(model=AirBench(widths=(32, 64), views="one"), label_smoothing=0.2),
        data=Digits(augment=Augment(shift=1, padding="reflect")),
        optimizer=Lookahead(ByPath(rules), every=5, share=1.0, last_share=1 - 0.95**5),
        steps=440,
        batch_size=64,
        log_every=22,
        eval_every=110,
        save_every=220,
    )


def sgd(factor: float = 1.0) -> SGD:
    """Nesterov's momentum at a multiple of the rate, with a decay of all parameters that does not depend on the rate."""
    schedule = OneCycle(warmup=0.23, start=0.2, final=0.07, shape="linear")
    rate, decay = factor * RATE, DECAY / (factor * RATE)
    return SGD(rate, 0.85, nesterov=True, weight_decay=decay, weight_decay_on=("*",), schedule=schedule)
