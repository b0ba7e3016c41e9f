"""Data of which only some labels are known, for `tasks.FixMatch`; an array `labelled` marks them."""

import dataclasses
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.arrays import from_arrays
from jaxnets.data.dataset import Dataset, Source

LABELLED = "labelled"
# The label of unlabelled examples.
UNKNOWN = -1


def few_labels(dataset: Dataset, each: int, *, seed: int = 0) -> Dataset:
    """The same examples with `each` labelled training examples of every class; the other labels are hidden.

    Args:
        dataset: data with classes.
        each: labelled examples of a class.
        seed: decides which.

    Raises:
        DataError: there are no classes, or a class has fewer examples.
    """
    if dataset.card.target_kind != "class":
        raise DataError(f"few_labels hides classes, but the targets of {dataset.name!r} are none")
    rng, labels = np.random.default_rng(seed), np.asarray(dataset.train["targets"])
    known = np.zeros(len(labels), np.int32)
    for number, name in enumerate(dataset.class_names):
        rows = np.flatnonzero(labels == number)
        if not 1 <= each <= len(rows):
            raise DataError(
                f"class {name!r} of {dataset.name!r} has {len(rows)} examples, {each} of them cannot be labelled"
            )
        known[rng.permutation(rows)[:each]] = 1
    return _marked(dataset, known, np.where(known, labels, 0))


def with_unlabelled(inputs: Any, targets: Any, **options: Any) -> Dataset:
    """A data set from arrays in which a label of -1 means that it is not known.

    Args:
        inputs: `[N, ...]`, as in `from_arrays`.
        targets: `[N]` whole numbers, -1 where there is no label.
        **options: those of `from_arrays`; `test`, whose labels are all known, is needed.

    Raises:
        DataError: there is no test split, or labels are other numbers.
    """
    targets = np.asarray(targets)
    if options.get("test") is None:
        raise DataError("with_unlabelled needs test=(inputs, targets), whose labels are all known")
    if targets.ndim != 1 or targets.dtype.kind not in "iu" or targets.min(initial=0) < UNKNOWN:
        raise DataError(
            f"targets are whole numbers [N], -1 where there is no label; got {targets.dtype}{targets.shape}"
        )
    known = (targets != UNKNOWN).astype(np.int32)
    if not known.any():
        raise DataError("every label is -1; give at least one example of each class a label")
    # An existing label replaces the missing ones, so that they do not become a class.
    first = targets[known > 0][0]
    options = {"validation": None, **options}
    if options["validation"] is not None:
        raise DataError("with_unlabelled sets no validation split aside; give the run one, fit(..., validation=0.1)")
    return _marked(from_arrays(inputs, np.where(known, targets, first), **options), known)


def _marked(dataset: Dataset, known: np.ndarray, labels: np.ndarray | None = None) -> Dataset:
    train = {**dataset.train, LABELLED: known} | ({} if labels is None else {"targets": labels.astype(np.int32)})
    others: dict[str, Any] = {
        field: {**arrays, LABELLED: np.ones(len(arrays["targets"]), np.int32)}
        for field, arrays in (("test", dataset.test), ("validation", dataset.validation))
        if arrays is not None
    }
    return dataclasses.replace(dataset, train=train, **others)


@dataclasses.dataclass(frozen=True)
class FewLabels(Source):
    """Another source's data with most labels hidden."""

    of: Source
    """The source."""
    each: int = 4
    """Labelled examples of a class."""
    seed: int = 0
    """Decides which."""

    def open(self) -> Dataset:
        """See `few_labels`."""
        return few_labels(self.of.open(), self.each, seed=self.seed)
