"""What numbers are centred and divided by, computed in float64 whatever their own format."""

from collections.abc import Iterator
from typing import Any

import numpy as np

# Adding up n equal numbers leaves a deviation of about their rounding error, eps times their size, times a small factor
# that grows slowly with n. Real variation this small cannot be distinguished from it.
ROUNDING = 64
# A feature whose values all lie within so many units in the last place of their own format is constant.
LAST_PLACES = 4
# Rows of a block are chosen so that its float64 copy has about this many bytes.
BLOCK_BYTES = 1 << 24
# With 2 to so many features, sums are taken by counting.
FEW_FEATURES = 8
# Beyond it, float64 does not hold every whole number.
LARGEST_EXACT = 2.0**53


def usable_deviation(deviation: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """The standard deviation, or 1 where it is no more than the rounding error of numbers as large as `largest`.

    Args:
        deviation: standard deviations, computed in float64.
        largest: the largest magnitude that each was computed from, same shape.
    """
    deviation, largest = np.asarray(deviation, np.float64), np.asarray(largest, np.float64)
    return np.where(deviation > ROUNDING * np.finfo(np.float64).eps * largest, deviation, 1.0)


def blocks(array: Any) -> Iterator[np.ndarray]:
    """An array `[N, ...]` in pieces of whole rows, small enough that a float64 copy of each costs little memory.

    The array may be one that is read from a file by slices (`data.large.LazyArray`).
    """
    row = 8 * max(1, int(np.prod(array.shape[1:], dtype=np.int64)))
    rows = max(1, BLOCK_BYTES // row)
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def centred(numbers: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """`numbers - mean`, float64: subtracted before anything is rounded to fewer digits.

    Args:
        numbers: `[..., F]` of any real dtype.
        mean: float64, one number or `[F]`.
    """
    if numbers.dtype.kind in "iu" and numbers.dtype.itemsize == 8 and np.abs(mean).max(initial=0) >= LARGEST_EXACT / 2:
        # Nanoseconds since 1970 have 61 bits, float64 holds 53: whole numbers are subtracted as such. Differences wrap
        # around alike in int64 and uint64, so they come out right as long as they fit into 63 bits.
        whole = np.broadcast_to(np.rint(mean), numbers.shape[-1:] if np.ndim(mean) else ())
        offset = np.array([int(v) & (2**64 - 1) for v in np.ravel(whole)], np.uint64).reshape(whole.shape)
        return (numbers.astype(np.uint64) - offset).view(np.int64).astype(np.float64) - (mean - whole)
    if numbers.dtype.itemsize > 8:  # long double has more digits than float64
        return (numbers - mean).astype(np.float64)
    return numbers.astype(np.float64) - mean


def extremes(numbers: Any) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest number of each feature, over all but the last dim; both `[F]`, NaN where there is one."""
    found: list[list[np.ndarray]] = [[], []]
    for block in blocks(numbers):
        # Row by row first: NumPy reduces along long rows many times faster than over a last dim of three channels.
        flat = block.reshape(len(block), -1)
        for kept, bound in zip(found, (np.minimum, np.maximum), strict=True):
            kept.append(bound.reduce(bound.reduce(flat, axis=0).reshape(-1, block.shape[-1]), axis=0))
    return np.minimum.reduce(found[0]), np.maximum.reduce(found[1])


def _feature_sums(block: np.ndarray) -> np.ndarray:
    """The sum over all but the last dim, `[F]`: added one after the other, as NumPy does, so with the same bits."""
    features = block.shape[-1]
    if not 1 < features <= FEW_FEATURES or not block.flags.c_contiguous:
        return block.sum(axis=tuple(range(block.ndim - 1)))
    # NumPy's loop over three channels takes several times as long as counting with weights.
    return np.bincount(np.tile(np.arange(features), block.size // features), block.ravel(), features)


def mean_and_deviation(numbers: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature over all but the last dim, in two passes; both `[F]` float64.

    A deviation that is no more than the numbers' rounding error is 0: the feature is constant.
    """
    lead = tuple(range(numbers.ndim - 1))
    count = float(np.prod(numbers.shape[:-1], dtype=np.float64))
    least, most = extremes(numbers)
    largest = np.maximum(np.abs(least.astype(np.float64)), np.abs(most.astype(np.float64)))
    # Differences are squared as shares of the largest number, whose own square may be beyond float64.
    unit = np.where(largest > 0, largest, 1.0)
    # Sums of differences from the first row: of numbers that are large and near each other no digit is lost.
    start = numbers[(0,) * len(lead)].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = start + sum(_feature_sums(centred(block, start) / unit) for block in blocks(numbers)) / count * unit
        residual, spread = np.zeros_like(mean), np.zeros_like(mean)
        for block in blocks(numbers):
            share = centred(block, mean) / unit
            residual += _feature_sums(share)
            spread += _feature_sums(np.square(share))
        residual, spread = residual / count, spread / count
        # The mean is rounded to float64; by so much the differences from it are off.
        deviation = np.sqrt(np.maximum(spread - np.square(residual), 0.0)) * unit
    if numbers.dtype.kind != "f":  # whole numbers have no rounding errors
        return mean, np.where(least == most, 0.0, deviation)
    constant = deviation <= ROUNDING * np.finfo(np.float64).eps * largest
    # In fewer digits too, a few units in the last place are no variation.
    reach = most.astype(np.float64) - least.astype(np.float64)
    constant |= reach <= LAST_PLACES * float(np.finfo(numbers.dtype).eps) * largest
    return mean, np.where(constant, 0.0, deviation)
