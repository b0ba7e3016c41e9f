"""Rare classes repeated until all are equally frequent."""

import dataclasses

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.dataset import Dataset, Source
from jaxnets.data.validation import Validation, take, with_validation


def balanced_rows(labels: np.ndarray, *, power: float = 1.0, seed: int = 0) -> np.ndarray:
    """Row numbers in which examples of rare classes occur several times.

    A class with `n` of the `m` examples of the most frequent one occurs `m^power n^(1 - power)` times (rounded): with power 1
    as often as that one, with 1/2 by the square root (Mahajan et al. 2018), with 0 as it is. Each of its examples occurs as
    often as the others, up to one time.

    Args:
        labels: `[N]` integers.
        power: in [0, 1].
        seed: decides which examples occur once more.
    """
    rng, parts = np.random.default_rng(seed), []
    counts = np.bincount(labels)
    for label in np.flatnonzero(counts):
        rows = np.flatnonzero(labels == label)
        wanted = round(counts.max() ** power * counts[label] ** (1 - power))
        parts += [np.tile(rows, wanted // len(rows)), rng.permutation(rows)[: wanted % len(rows)]]
    return np.sort(np.concatenate(parts))


def balanced(dataset: Dataset, *, power: float = 1.0, validation: float = 0.1, seed: int = 0) -> Dataset:
    """The data set with the training rows of `balanced_rows`; test and validation split are unchanged.

    Repeated examples cannot be divided any more, so the validation split is set aside before.

    Args:
        dataset: data with classes.
        power: see `balanced_rows`.
        validation: share of the examples that is set aside, where the data have no validation split yet; 0: none, so that the
            run can choose nothing by its evaluations (`stop`, `keep.best`).
        seed: decides which examples are set aside and which occur once more.

    Raises:
        DataError: the data have no classes, or `power` is outside [0, 1].
    """
    if dataset.card.target_kind != "class":
        raise DataError(f"balanced repeats rare classes, but the targets of {dataset.name!r} are none")
    if not 0 <= power <= 1:
        raise DataError(f"power is in [0, 1], got {power}")
    if dataset.validation is None and validation:
        dataset = with_validation(dataset, Validation(validation), seed=seed, needed=True)
    rows = balanced_rows(np.asarray(dataset.train["targets"]).astype(int), power=power, seed=seed)
    return dataclasses.replace(dataset, train=take(dataset.train, rows), divided=True)


@dataclasses.dataclass(frozen=True)
class Balanced(Source):
    """Another source's data with the examples of rare classes repeated."""

    of: Source
    """The source."""
    power: float = 1.0
    """1: all classes are equally frequent; 1/2: by the square root of their number; 0: as they are."""
    validation: float = 0.1
    """Share of the examples that is set aside for validation before, where the data have no such split; 0: none."""
    seed: int = 0
    """Decides which examples are set aside and which occur once more."""

    def open(self) -> Dataset:
        """See `balanced`."""
        return balanced(self.of.open(), power=self.power, validation=self.validation, seed=self.seed)
