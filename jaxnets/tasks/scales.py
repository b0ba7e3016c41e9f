"""Real targets in standard deviations and back, in float64 on the host."""

from typing import Any

import numpy as np


def standardized(targets: np.ndarray, means: Any, deviations: Any) -> np.ndarray:
    """`(targets - means) / deviations` over the last dim, computed in float64 or wider, given as float32."""
    exact = np.asarray(targets).astype(np.promote_types(np.asarray(targets).dtype, np.float64))
    return ((exact - np.asarray(means)) / np.asarray(deviations)).astype(np.float32)


def in_units(outputs: np.ndarray, means: Any, deviations: Any) -> np.ndarray:
    """The inverse of `standardized`: float32, or float64 where 32 bits would not tell a thousandth of a deviation apart."""
    values = np.asarray(outputs, np.float64) * np.asarray(deviations) + np.asarray(means)
    coarse = np.finfo(np.float32).eps * np.abs(means).max() > 1e-3 * np.min(deviations)
    return values if coarse else values.astype(np.float32)
