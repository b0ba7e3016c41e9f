"""Examples with a rank by their difficulty, for `tasks.Curriculum`."""

import dataclasses
from typing import Any, Literal

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.dataset import Dataset, Source
from jaxnets.data.split import WEIGHTS
from jaxnets.ops.tokens import PAD

DIFFICULTY = "difficulty"


def with_difficulty(dataset: Dataset, scores: Any) -> Dataset:
    """The data set with an array `difficulty`: the rank of each training example divided by their number, in (0, 1].

    Args:
        dataset: the data. Examples of other splits get 0.
        scores: `[N]`, one for each training example, higher for harder ones: a length, or the loss of another model. Equal
            scores are ranked in the order of the data.

    Raises:
        DataError: there are not as many finite numbers as training examples.
    """
    scores, count = np.asarray(scores, np.float64), len(dataset.train["targets"])
    if scores.shape != (count,) or not np.isfinite(scores).all():
        raise DataError(
            f"scores have shape {scores.shape}; give one finite number for each of the {count} training examples of "
            f"{dataset.name!r}"
        )
    ranks = np.empty(count, np.float32)
    ranks[np.argsort(scores, kind="stable")] = np.arange(1, count + 1) / count
    others: dict[str, Any] = {
        field: {**arrays, DIFFICULTY: np.zeros(len(arrays["targets"]), np.float32)}
        for field, arrays in (("test", dataset.test), ("validation", dataset.validation))
        if arrays is not None
    }
    return dataclasses.replace(dataset, train={**dataset.train, DIFFICULTY: ranks}, **others)


@dataclasses.dataclass(frozen=True)
class Ranked(Source):
    """Another source's data with the difficulty of each training example."""

    of: Source
    """The source."""
    by: Literal["length", "deviation"] = "length"
    """length: number of tokens of the input without padding, or `lengths`; deviation: the standard deviation of the input."""

    def open(self) -> Dataset:
        """See `with_difficulty`."""
        dataset = self.of.open()
        inputs = np.asarray(dataset.train["inputs"])
        rows = inputs.reshape(len(inputs), -1)
        if self.by == "deviation":
            return with_difficulty(dataset, rows.astype(np.float64).std(axis=1))
        lengths = dataset.train.get("lengths", (rows != PAD).sum(axis=1))
        return with_difficulty(dataset, lengths)


def with_targets(dataset: Dataset, **named: tuple[Any, Any]) -> Dataset:
    """The data set with more targets, for `tasks.MultiTask`: each name with an array for training and one for the test.

    Raises:
        DataError: an array has another length, a name is taken, or the data have a validation split.
    """
    if dataset.validation is not None:
        raise DataError(
            f"{dataset.name!r} has a validation split; add targets first, and give the run a share of its own"
        )
    train, test = dict(dataset.train), dict(dataset.test)
    for name, (mine, held) in named.items():
        if name in train or name in WEIGHTS:
            raise DataError(f"{dataset.name!r} has an array {name!r} already; use another name")
        train[name], test[name] = np.asarray(mine), np.asarray(held)
    return dataclasses.replace(dataset, train=train, test=test)
