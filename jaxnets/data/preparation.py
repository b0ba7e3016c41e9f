"""What the training data taught: one object, learned once, that goes with a run and its checkpoints.

Training, evaluation and every prediction go through it, whatever road the examples come by (arrays, a file, the command
line, a reopened run). It is plain data: no arrays of examples, nothing that runs.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.core.scaling import mean_and_deviation
from jaxnets.core.types import Card, Tokens
from jaxnets.data.prepare import Standardize, TokenIds
from jaxnets.data.tabular.cells import CellFormat
from jaxnets.data.tabular.columns import Column, Columns, Ratio
from jaxnets.data.tabular.csv_files import Reading
from jaxnets.ops.tokens import IGNORED

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Form:
    """One array of an example, as it came in training."""

    name: str
    shape: tuple[int, ...]
    """Without the example dim."""
    dtype: str
    """NumPy's name of the number format."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What is known of the examples of a data set, and how they are made ready for a model."""

    name: str
    """Of the data set."""
    kind: str
    """Of the targets; see `Card.target_kind`."""
    examples: tuple[int, int]
    """In training and test."""
    forms: tuple[Form, ...]
    """The arrays of an example, targets included."""
    prepare: Standardize | TokenIds
    """Raw inputs to what a model sees."""
    class_names: tuple[str, ...] = ()
    """Of the classes, labels or tokens, in the order of their numbers."""
    target_name: str = "target"
    """What is predicted."""
    target_means: tuple[float, ...] = ()
    """Mean of the training targets, for each; in their own unit."""
    target_deviations: tuple[float, ...] = ()
    """Standard deviation of the training targets, for each; in their own unit."""
    feature_names: tuple[str, ...] = ()
    """Of the inputs' last dim, where they have names."""
    lowest: tuple[float, ...] = ()
    """The least raw input in training, for each feature (one number where inputs are no table)."""
    highest: tuple[float, ...] = ()
    """The largest."""
    input_range: tuple[float, float] = (-math.inf, math.inf)
    """See `Card`."""
    target_shape: tuple[int, ...] = ()
    """See `Card`."""
    tokens: Tokens | None = None
    """What the inputs are made of, where they are tokens filled up with 0."""
    columns: Columns | None = None
    """What makes inputs of the rows of a table."""
    tokenizer: str = ""
    """Digest of the tokenizer's files; "" where there are none."""

    @functools.cached_property
    def card(self) -> Card:
        """What a task may know before it sees a batch."""
        inputs = self.form("inputs")
        return Card(
            name=self.name,
            input_shape=inputs.shape,
            target_kind=self.kind,
            examples={"train": self.examples[0], "test": self.examples[1]},
            class_names=self.class_names,
            target_name=self.target_name,
            input_range=self.input_range,
            target_shape=self.target_shape,
            tokens=self.tokens,
            target_means=self.target_means,
            target_deviations=self.target_deviations,
        )

    def form(self, name: str) -> Form:
        """The form of one array."""
        return next(form for form in self.forms if form.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays that a model is asked with: all but what only training needs."""
        return tuple(form.name for form in self.forms if form.name not in ("targets", "weights", "mask"))

    def check_named(self, what: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Raise `DataError` where a token or a label has no name: below 0, or past the last.

        Of targets that are tokens, those that are `IGNORED` do not count and need no name; some of a split have to count.
        """
        text = self.kind == "token" and isinstance(self.prepare, TokenIds)
        names = {"inputs": self.tokens.names if self.tokens else self.class_names if text else ()}
        if self.kind in ("class", "token", "sequence"):
            names["targets"] = self.class_names
        for key, known in names.items():
            if not known or key not in arrays:
                continue
            values, extra = np.asarray(arrays[key]), ""
            if key == "targets" and self.kind in ("token", "sequence") and values.dtype.kind == "i":
                counted = values[values != IGNORED]
                if values.size and not counted.size:
                    raise DataError(
                        f"{self.name}: every one of the {what} targets is {IGNORED}, which says that it does not count, so "
                        f"there is nothing to learn or to measure; give the tokens that count their own numbers"
                    )
                values, extra = counted, f", and {IGNORED} says that a token does not count"
            if not values.size or 0 <= values.min() <= values.max() < len(known):
                continue
            kind, remedy = "tokens", "give the vocabulary that they were made with, or make them again with this one"
            if key == "targets" and self.kind == "class":
                kind, remedy = "labels", "number them from 0, or name every class in class_names"
            raise DataError(
                f"{self.name}: the {what} {key} hold {kind} from {int(values.min())} to {int(values.max())}, but "
                f"there are {len(known)}, numbered from 0{extra}; {remedy}"
            )

    def on_host(self, arrays: Arrays) -> Arrays:
        """Raw arrays as they are sent to a device: inputs half prepared, all else in 32 bits at most."""
        return {
            name: self.prepare.on_host(array) if name == "inputs" else narrow(array) for name, array in arrays.items()
        }


# What a preparation is made of, for writing it down and reading it back.
CLASSES = (Preparation, Form, Standardize, TokenIds, Tokens, Columns, Column, Ratio, CellFormat, Reading)


def narrow(array: np.ndarray) -> np.ndarray:
    """Numbers of 64 bits and more in 32, which devices compute in; others as they are."""
    if array.dtype.itemsize <= 4 or array.dtype.kind not in "iuf":
        return array
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int32)


def describe(dataset: Any) -> Preparation:
    """What the training split of a `Dataset` teaches."""
    train, test = dataset.train, dataset.test
    kind = dataset.target_kind or ("class" if dataset.class_names else "number")
    means, deviations = _target_scales(dataset, kind)
    lowest, highest = _bounds(train["inputs"])
    forms = tuple(
        Form(
            name, _longest(dataset, name) if name == "inputs" and dataset.tokens else array.shape[1:], array.dtype.name
        )
        for name, array in train.items()
    )
    return Preparation(
        name=dataset.name,
        kind=kind,
        examples=(len(train["targets"]), len(test["targets"])),
        forms=forms,
        prepare=dataset.prepare,
        class_names=dataset.class_names,
        target_name=dataset.target_name,
        target_means=means,
        target_deviations=deviations,
        feature_names=dataset.feature_names,
        lowest=lowest,
        highest=highest,
        input_range=_input_range(dataset),
        target_shape=_longest(dataset, "targets"),
        tokens=dataset.tokens,
        columns=dataset.columns,
        tokenizer=dataset.tokenizer.digest if dataset.tokenizer is not None else "",
    )


def _longest(dataset: Any, name: str) -> tuple[int, ...]:
    """The shape of an example that holds those of both splits: sequences are filled up to the longest of their split."""
    return tuple(map(max, zip(dataset.train[name].shape[1:], dataset.test[name].shape[1:], strict=False)))


def _target_scales(dataset: Any, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and deviations of real targets, one for each; those of a series are its channels' own."""
    if kind == "series":
        return (dataset.prepare.mean, dataset.prepare.std) if isinstance(dataset.prepare, Standardize) else ((), ())
    if kind != "number":
        return (), ()
    targets = dataset.train["targets"]
    mean, deviation = mean_and_deviation(targets.reshape(len(targets), -1))
    return tuple(mean.tolist()), tuple(deviation.tolist())


def _bounds(inputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Least and largest raw inputs, for each feature of a table, else over all."""
    if inputs.dtype.kind not in "biuf" or not inputs.size:
        return (), ()
    dims = 0 if inputs.ndim == 2 else None
    low, high = (np.atleast_1d(bound(axis=dims)) for bound in (inputs.min, inputs.max))
    return tuple(float(v) for v in low), tuple(float(v) for v in high)


def _input_range(dataset: Any) -> tuple[float, float]:
    """Bounds of the prepared inputs of both splits; tight where all channels are scaled alike."""
    if not isinstance(dataset.prepare, Standardize):
        return 0.0, float(max(len(dataset.tokens.names if dataset.tokens else dataset.class_names) - 1, 0))
    low = min(float(split["inputs"].min()) for split in (dataset.train, dataset.test))
    high = max(float(split["inputs"].max()) for split in (dataset.train, dataset.test))
    mean, std = np.broadcast_arrays(dataset.prepare.mean, dataset.prepare.std)
    return float(((low - mean) / std).min()), float(((high - mean) / std).max())
