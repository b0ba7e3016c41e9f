"""Standardising real targets and the inverse, in float64 on the host."""

from typing import Any

import numpy as np


def standardized(targets: np.ndarray, means: Any, deviations: Any) -> np.ndarray:
    """`(targets - means) / deviations` over the last dim, computed in float64 or wider, returned as float32."""
    return (differences(np.asarray(targets), np.asarray(means, np.float64)) / np.asarray(deviations)).astype(np.float32)


def differences(targets: np.ndarray, means: np.ndarray) -> np.ndarray:
    """`targets - means` over the last dim, float64 or wider; 64-bit integers are subtracted as integers, without loss."""
    if targets.dtype.kind not in "iu" or targets.dtype.itemsize < 8:
        return targets.astype(np.promote_types(targets.dtype, np.float64)) - means
    # Differences wrap around in the same way for signed and unsigned integers.
    whole = np.rint(means)
    base = np.array([int(v) & (2**64 - 1) for v in np.ravel(whole)], np.uint64).reshape(whole.shape)
    return (targets.astype(np.uint64) - base).view(np.int64).astype(np.float64) - (means - whole)


def in_units(outputs: np.ndarray, means: Any, deviations: Any) -> np.ndarray:
    """The inverse of `standardized`: float32, or float64 if float32 cannot resolve a thousandth of a deviation."""
    values = np.asarray(outputs, np.float64) * np.asarray(deviations) + np.asarray(means)
    size = np.maximum(np.abs(means), np.asarray(deviations))
    coarse = (
        size.max() > 1e35
        or np.min(deviations) < 1e-35
        or np.finfo(np.float32).eps * np.abs(means).max() > 1e-3 * np.min(deviations)
    )
    return values if coarse else values.astype(np.float32)
