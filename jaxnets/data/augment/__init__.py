"""Random changes to training examples, drawn again at every step, inside the compiled program.

`Augment` is for images (its noise and mixup for inputs of any shape), and there is one for each other kind of inputs. A tuple
of them is applied in turn.
"""

from typing import Any

from jaxnets.core.errors import UsageError
from jaxnets.data.augment.base import Augmentation as Augmentation
from jaxnets.data.augment.base import Chain
from jaxnets.data.augment.base import Facts as Facts
from jaxnets.data.augment.base import OwnAugment as OwnAugment
from jaxnets.data.augment.base import Pixels as Pixels
from jaxnets.data.augment.base import named as named
from jaxnets.data.augment.for_images import Augment as Augment
from jaxnets.data.augment.graphs import GraphAugment as GraphAugment
from jaxnets.data.augment.series import SeriesAugment as SeriesAugment
from jaxnets.data.augment.tables import TableAugment as TableAugment
from jaxnets.data.augment.tokens import TokenAugment as TokenAugment


def as_augment(given: Any) -> Augmentation:
    """An augmentation, a tuple of several, a function `(key, inputs) -> inputs`, or None for no changes.

    Raises:
        UsageError: anything else.
    """
    if given is None:
        return Augment()
    if isinstance(given, Augmentation):
        return given
    if isinstance(given, tuple | list):
        return Chain(tuple(as_augment(part) for part in given))
    if not callable(given):
        raise UsageError(
            f"augment is an Augment, another augmentation, a tuple of them, or a function (key, inputs) -> inputs of one "
            f"example, got {given!r}"
        )
    return OwnAugment(given)
