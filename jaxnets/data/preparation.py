"""The preparation: statistics and formats of the training data, computed once and saved with a run and its checkpoints.

Training, evaluation and prediction all use it, for examples from arrays, a file, the command line or a reopened run. It is
plain data, without examples and without code.
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
from jaxnets.data.large import LazyArray
from jaxnets.data.prepare import AsGiven, Standardize, TokenIds
from jaxnets.data.several import Input
from jaxnets.data.tabular.cells import CellFormat
from jaxnets.data.tabular.columns import Column, Columns, Ratio
from jaxnets.data.tabular.csv_files import Reading
from jaxnets.ops.tokens import IGNORED

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Form:
    """Shape and dtype of one array of an example, as in training."""

    name: str
    shape: tuple[int, ...]
    """Without the example dim."""
    dtype: str
    """NumPy's name of the dtype."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """The properties of the examples of a data set, and how they are prepared for a model."""

    name: str
    """Name of the data set."""
    kind: str
    """Kind of the targets; see `Card.target_kind`."""
    examples: tuple[int, int]
    """Numbers of training and test examples."""
    forms: tuple[Form, ...]
    """The arrays of an example, targets included."""
    prepare: Standardize | TokenIds
    """Turns raw inputs into model inputs."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, labels or tokens, by number."""
    target_name: str = "target"
    """Name of the predicted quantity."""
    target_means: tuple[float, ...] = ()
    """Mean of each training target, in its own unit."""
    target_deviations: tuple[float, ...] = ()
    """Standard deviation of each training target, in its own unit."""
    feature_names: tuple[str, ...] = ()
    """Names along the last dim of the inputs, if any."""
    lowest: tuple[float, ...] = ()
    """Smallest raw training input, for each feature (a single number if the inputs are not a table)."""
    highest: tuple[float, ...] = ()
    """Largest raw training input, likewise."""
    input_range: tuple[float, float] = (-math.inf, math.inf)
    """See `Card`."""
    target_shape: tuple[int, ...] = ()
    """See `Card`."""
    tokens: Tokens | None = None
    """The vocabulary of the inputs, if they are tokens padded with 0."""
    columns: Columns | None = None
    """Encodes the rows of a table as inputs."""
    validation: int = 0
    """Number of validation examples."""
    tokenizer: str = ""
    """Digest of the tokenizer's files; "" if there are none."""
    several: tuple[Input, ...] = ()
    """The inputs of a model that takes several; () if there is one array."""
    separator: int | None = None
    """See `Card`."""

    @functools.cached_property
    def card(self) -> Card:
        """The description of the data that a task is bound to."""
        inputs = self.form("inputs")
        return Card(
            name=self.name,
            input_shape=inputs.shape,
            target_kind=self.kind,
            examples=dict(zip(("train", "test"), self.examples, strict=True))
            | ({"validation": self.validation} if self.validation else {}),
            class_names=self.class_names,
            target_name=self.target_name,
            input_range=self.input_range,
            target_shape=self.target_shape,
            tokens=self.tokens,
            target_means=self.target_means,
            target_deviations=self.target_deviations,
            separator=self.separator,
        )

    def form(self, name: str) -> Form:
        """The form of one array."""
        return next(form for form in self.forms if form.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays that prediction needs: all except targets and weights."""
        return tuple(form.name for form in self.forms if form.name not in ("targets", "weights", "mask"))

    def prepare_of(self, name: str) -> Standardize | TokenIds:
        """How an array of the inputs is prepared."""
        return next((one.prepare for one in self.several if one.array == name), self.prepare)

    def check_named(self, what: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Raise `DataError` for a token or label outside `[0, number of names)`.

        Target tokens that are `IGNORED` are skipped, but a split must have some that are not.
        """
        text = self.kind == "token" and isinstance(self.prepare, TokenIds)
        names = {"inputs": self.tokens.names if self.tokens else self.class_names if text else ()}
        if self.kind in ("class", "token", "sequence"):
            names["targets"] = self.class_names
        for key, known in names.items():
            if not known or key not in arrays:
                continue
            values, extra = arrays[key], ""
            if isinstance(values, LazyArray):  # its ends say whether all are known; those that do not count aside
                ends = np.array([values.min(), values.max()])
                values = ends[ends != IGNORED] if key == "targets" else ends
            values = np.asarray(values)
            if key == "targets" and self.kind in ("token", "sequence") and values.dtype.kind == "i":
                counted = values[values != IGNORED]
                if values.size and not counted.size:
                    raise DataError(
                        f"{self.name}: every one of the {what} targets is {IGNORED}, which marks a token that does not count, "
                        f"so there is nothing to train on or to measure; give the tokens that count their numbers"
                    )
                values, extra = counted, f", and {IGNORED} marks a token that does not count"
            if not values.size or 0 <= values.min() <= values.max() < len(known):
                continue
            kind, remedy = (
                "tokens",
                "give the vocabulary that they were encoded with, or encode them again with this one",
            )
            if key == "targets" and self.kind == "class":
                kind, remedy = "labels", "number them from 0, or name every class in class_names"
            raise DataError(
                f"{self.name}: the {what} {key} hold {kind} from {int(values.min())} to {int(values.max())}, but "
                f"there are {len(known)}, numbered from 0{extra}; {remedy}"
            )

    def on_host(self, arrays: Arrays) -> Arrays:
        """Raw arrays as they are sent to a device: inputs after `prepare.on_host`, the rest with at most 32 bits."""
        inputs = {"inputs", *(one.array for one in self.several)}
        return {
            name: self.prepare_of(name).on_host(array) if name in inputs else narrow(array)
            for name, array in arrays.items()
        }


# The classes inside a preparation, for saving and loading it.
CLASSES = (
    Preparation,
    Form,
    Input,
    Standardize,
    TokenIds,
    AsGiven,
    Tokens,
    Columns,
    Column,
    Ratio,
    CellFormat,
    Reading,
)


def narrow(array: np.ndarray) -> np.ndarray:
    """Cast numbers of 64 or more bits to 32 bits, the width on devices; other arrays are returned unchanged."""
    if array.dtype.itemsize <= 4 or array.dtype.kind not in "iuf":
        return array
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int32)


def describe(dataset: Any) -> Preparation:
    """The preparation computed from the training split of a `Dataset`."""
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
        validation=len(dataset.validation["targets"]) if dataset.validation else 0,
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
        several=dataset.several,
        separator=dataset.separator,
    )


def _longest(dataset: Any, name: str) -> tuple[int, ...]:
    """The largest example shape of the splits: each split pads sequences to its own longest."""
    return tuple(map(max, zip(*(split[name].shape[1:] for split in dataset.splits.values()), strict=False)))


def _target_scales(dataset: Any, kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each real target; a series has those of its channels."""
    if kind == "series":
        return (dataset.prepare.mean, dataset.prepare.std) if isinstance(dataset.prepare, Standardize) else ((), ())
    if kind != "number":
        return (), ()
    targets = dataset.train["targets"]
    if isinstance(targets, LazyArray):
        return tuple(targets.moments[0].tolist()), tuple(targets.moments[1].tolist())
    mean, deviation = mean_and_deviation(targets.reshape(len(targets), -1))
    return tuple(mean.tolist()), tuple(deviation.tolist())


def _bounds(inputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Smallest and largest raw inputs: per feature for a table, else over all numbers."""
    if inputs.dtype.kind not in "biuf" or not inputs.size:
        return (), ()
    dims = 0 if inputs.ndim == 2 else None
    low, high = (np.atleast_1d(bound(axis=dims)) for bound in (inputs.min, inputs.max))
    return tuple(float(v) for v in low), tuple(float(v) for v in high)


def _input_range(dataset: Any) -> tuple[float, float]:
    """Bounds of the prepared inputs of both splits; tight if all channels have the same scale."""
    if not isinstance(dataset.prepare, Standardize):
        return 0.0, float(max(len(dataset.tokens.names if dataset.tokens else dataset.class_names) - 1, 0))
    low = min(float(split["inputs"].min()) for split in dataset.splits.values())
    high = max(float(split["inputs"].max()) for split in dataset.splits.values())
    mean, std = np.broadcast_arrays(dataset.prepare.mean, dataset.prepare.std)
    return float(((low - mean) / std).min()), float(((high - mean) / std).max())
