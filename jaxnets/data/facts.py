"""The properties of the data that an augmentation needs, from their preparation."""

import numpy as np

from jaxnets.data.augment import Facts, Pixels
from jaxnets.data.preparation import Preparation
from jaxnets.data.prepare import Standardize


def facts_of(preparation: Preparation) -> Facts:
    """Shapes, kinds and the range of the pixels."""
    prepare = preparation.prepare
    return Facts(
        name=preparation.name,
        shape=preparation.form("inputs").shape,
        tokens=not isinstance(prepare, Standardize),
        arrays=tuple(form.name for form in preparation.forms),
        kind=preparation.kind,
        classes=len(preparation.class_names),
        pixels=_pixels(preparation, prepare) if isinstance(prepare, Standardize) else Pixels(),
        several=bool(preparation.several),
        vocabulary=len(preparation.tokens.names) if preparation.tokens else 0,
    )


def _pixels(preparation: Preparation, prepare: Standardize) -> Pixels:
    """Black is 0 and white 255, or 1 for real numbers, where the training images reach from 0 to more than half of that; else
    their smallest and largest values."""
    low, high = min(preparation.lowest, default=0.0), max(preparation.highest, default=1.0)
    white = 255.0 if np.dtype(preparation.form("inputs").dtype).kind in "iu" else 1.0
    if low >= 0 and white / 2 < high <= white:
        low, high = 0.0, white
    elif low >= 0:
        low = 0.0
    return Pixels(prepare.mean, prepare.std, low, high if high > low else low + 1.0)
