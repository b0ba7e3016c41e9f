"""Targets that are distributions over the classes (soft targets): a teacher's probabilities, votes of several people."""

from collections.abc import Sequence

import numpy as np

from jaxnets.core.errors import DataError

# How far a sum of probabilities may be from 1: rounded to three digits they still pass.
TOLERANCE = 1e-3


def distributions(
    name: str, y: np.ndarray, y_test: np.ndarray, class_names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Both splits as float32 `[N, C]`, and the names of the classes.

    Raises:
        DataError: a row has a number below 0, or its sum is not 1; there is not one name for each class.
    """
    for split, part in (("training", y), ("test", y_test)):
        if part.ndim != 2 or part.dtype.kind not in "fiub":
            raise DataError(
                f"{name}: kind='distribution' needs numbers [examples, classes], got {part.dtype}{part.shape}"
            )
        wrong = np.flatnonzero(not_distributions(part))
        if wrong.size:
            row = part[wrong[0]]
            raise DataError(
                f"{name}: the {split} targets are distributions over the classes, at least 0 and with a sum of 1, but row "
                f"{wrong[0]} is {row.tolist()[:8]}, whose sum is {row.sum():g}; divide each row by its sum"
            )
    names = tuple(map(str, class_names)) if class_names is not None else tuple(str(i) for i in range(y.shape[1]))
    if len(names) != y.shape[1]:
        raise DataError(f"{name}: class_names has {len(names)} names for distributions over {y.shape[1]} classes")
    return y.astype(np.float32), y_test.astype(np.float32), names


def not_distributions(rows: np.ndarray) -> np.ndarray:
    """Which rows of `[N, C]` are not distributions, `[N]` bool; rows with NaN are not."""
    return (rows < 0).any(axis=1) | ~(np.abs(rows.sum(axis=1) - 1) <= TOLERANCE)
