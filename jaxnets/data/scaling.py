"""What numbers are centred and divided by, computed in float64 whatever their own format."""

from collections.abc import Iterator

import numpy as np

# Adding up n equal numbers leaves a deviation of about their rounding error, eps times their size, times a small factor
# that grows slowly with n. Real variation this small cannot be told from it.
ROUNDING = 64
# Rows of a block are chosen so that its float64 copy has about this many bytes.
BLOCK_BYTES = 1 << 24


def usable_deviation(
    deviation: np.ndarray, largest: np.ndarray, eps: float = float(np.finfo(np.float64).eps)
) -> np.ndarray:
    """The standard deviation, or 1 where it is no more than the rounding error of numbers as large as `largest`.

    Args:
        deviation: standard deviations, float64.
        largest: the largest magnitude that each was computed from, same shape.
        eps: relative rounding error of the numbers, that of the format they were kept in (float64 unless said otherwise).
    """
    deviation, largest = np.asarray(deviation, np.float64), np.asarray(largest, np.float64)
    return np.where(deviation > ROUNDING * eps * largest, deviation, 1.0)


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array `[N, ...]` in pieces of whole rows, small enough that a float64 copy of each costs little memory."""
    row = 8 * max(1, int(np.prod(array.shape[1:], dtype=np.int64)))
    rows = max(1, BLOCK_BYTES // row)
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
