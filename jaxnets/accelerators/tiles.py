"""Bytes of an array in the memory of a chip, with the gaps of its layout."""

import itertools
import math
from typing import Any

from jaxnets.parallel.chips import Chip


def size_on(chip: Chip, array: Any) -> int:
    """Bytes of an array in a chip's memory; a TPU fills two of its dims up to tiles of 8 x 128 words."""
    shape, width = tuple(array.shape), array.dtype.itemsize
    count = math.prod(shape)
    if chip.platform != "tpu" or len(shape) < 2:
        return count * width
    rows = 8 * max(1, 4 // width)

    def padded(minor: int, second: int) -> int:
        filled = (-(-shape[minor] // 128) * 128) * (-(-shape[second] // rows) * rows)
        return count // (shape[minor] * shape[second]) * filled if count else 0

    # The compiler chooses the order of the dims.
    return min(padded(a, b) for a, b in itertools.permutations(range(len(shape)), 2)) * width
