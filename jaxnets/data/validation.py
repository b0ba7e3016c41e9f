"""The validation split: set aside from the training examples, for choices during training.

Early stopping and the best checkpoint use it; the test split is then measured once, at the end of a run.
"""

import dataclasses
import math
from typing import Any, Literal

import numpy as np

from jaxnets.core.errors import DataError, UsageError, note
from jaxnets.data.dataset import Arrays, Dataset
from jaxnets.data.large import LazyArray, select
from jaxnets.data.rows import split_rows

By = Literal["auto", "random", "class", "time"]
# The share that is set aside if a run makes choices by validation and the data have no validation split.
SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Validation:
    """How many training examples are set aside for validation, and which."""

    share: float | None = None
    """A share of the training examples, in (0, 1). 0: none. None: the validation split of the data; if they have none, a tenth
    if the run makes choices by it (`stop`, `keep.best`, `optim.Plateau`), else none."""
    by: By = "auto"
    """class: the same share of every class; time: the last examples; random. auto: class for classes, time for series and
    text, else random."""

    def __post_init__(self) -> None:
        if self.share is not None and not 0 <= self.share < 1:
            raise UsageError(f"validation.share is at least 0 and below 1, got {self.share}")


def with_validation(dataset: Dataset, wanted: Validation, *, seed: int, needed: bool) -> Dataset:
    """The data set with the validation split of a run: its own, one set aside here, or none.

    Args:
        dataset: the data.
        wanted: what to set aside.
        seed: of the draw of the examples.
        needed: whether the run chooses by validation.

    Raises:
        DataError: there are too few examples.
        UsageError: a share is wanted of data that have a validation split.
    """
    if dataset.hollow or dataset.divided:  # it has the splits of the run whose data it replaces
        return dataset
    if dataset.learned is not None:  # a resumed run keeps its splits
        began = dataset.learned.validation
        wanted, needed = (wanted, True) if began else (dataclasses.replace(wanted, share=0.0), False)
    if wanted.share == 0:
        if needed:
            raise UsageError(
                "validation.share is 0, but stop, keep.best or Plateau need a validation split; give a share"
            )
        return dataclasses.replace(dataset, validation=None) if dataset.validation else dataset
    if dataset.validation is not None:
        if wanted.share is not None:
            raise UsageError(
                f"{dataset.name!r} has a validation split of {dataset.card.examples['validation']} examples; leave "
                f"validation.share out, or set it to 0 to do without"
            )
        return dataset
    if wanted.share is None and not needed:
        return dataset
    share = SHARE if wanted.share is None else wanted.share
    how = _rule(dataset) if wanted.by == "auto" else wanted.by
    kept, held = split_rows(
        dataset.train["targets"], share, how, seed, what=f"{dataset.name}: validation.share={share:g}"
    )
    kept = kept[: len(kept) - _shared(dataset)] if how == "time" else kept
    if not len(kept):
        raise DataError(
            f"{dataset.name}: validation.share={share:g} leaves no example for training; take a smaller share"
        )
    if dataset.learned is None:  # noted once, at the start of the run
        note(
            f"{dataset.name}: {len(held):,} of {len(dataset.train['targets']):,} training examples are the validation split "
            f"({_in_words(how)})"
        )
    parts: dict[str, Any] = {"train": take(dataset.train, kept), "validation": take(dataset.train, held)}
    return dataclasses.replace(dataset, **parts, divided=True)


def take(arrays: Arrays, rows: np.ndarray) -> Arrays:
    """Some rows of a split; consecutive rows are a view."""
    whole = len(rows) and len(rows) == rows[-1] - rows[0] + 1 and bool((np.diff(rows) == 1).all())
    chosen = slice(int(rows[0]), int(rows[-1]) + 1) if whole else rows
    return {name: select(a, rows) if isinstance(a, LazyArray) else a[chosen] for name, a in arrays.items()}


def _rule(dataset: Dataset) -> str:
    """How a validation split is chosen for this kind of targets."""
    kind = dataset.card.target_kind
    targets = dataset.train["targets"]
    one_each = targets.ndim == 1 and not isinstance(targets, LazyArray)
    return "class" if kind == "class" and one_each else "time" if kind in ("series", "token") else "random"


def _shared(dataset: Dataset) -> int:
    """How many training rows before the validation rows have targets in common with them: windows of a series overlap."""
    targets = dataset.train["targets"]
    if dataset.overlap:
        return dataset.overlap
    if (
        isinstance(targets, LazyArray)
        or targets.ndim < 2
        or targets.base is None
        or not 0 < targets.strides[0] < targets.shape[1] * targets.strides[1]
    ):
        return 0
    return math.ceil(targets.shape[1] * targets.strides[1] / targets.strides[0]) - 1


def _in_words(how: str) -> str:
    return {"class": "the same share of every class", "time": "the last ones", "random": "drawn by the seed"}[how]
