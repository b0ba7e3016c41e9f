"""A data set in memory: named arrays in two splits, and how an example is made ready for a model."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.contracts import Card, Tokens
from jaxnets.data.augment import Augment
from jaxnets.data.targets import check_finite as check_finite
from jaxnets.data.targets import encode_targets
from jaxnets.errors import DataError
from jaxnets.ops.tokens import IGNORED

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Standardize:
    """`(inputs - mean) / std` over the last dim, in float32, on the device: images stay uint8 until a step needs them."""

    mean: tuple[float, ...] = (0.0,)
    """Subtracted; one number, or one for each channel or feature."""
    std: tuple[float, ...] = (1.0,)
    """Divides; one number, or one for each channel or feature."""

    def __call__(self, inputs: Array) -> Array:
        """Inputs of any real dtype to float32, same shape."""
        shape = (1,) * (inputs.ndim - 1) + (-1,)
        mean, std = (jnp.asarray(v, jnp.float32).reshape(shape) for v in (self.mean, self.std))
        return (inputs.astype(jnp.float32) - mean) / std

    def undo(self, prepared: np.ndarray) -> np.ndarray:
        """The inputs that would be prepared so, float64, same shape."""
        return np.asarray(prepared, np.float64) * np.array(self.std) + np.array(self.mean)


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """Tokens stay what they are, in the one integer format that models take."""

    def __call__(self, inputs: Array) -> Array:
        """Integers of any size to int32, same shape."""
        return inputs.astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test examples. Each split is a dict of arrays with a leading example dim: `inputs`, `targets`.

    Further arrays that a task needs (a graph's edges, say) go beside them under names of their own and reach the batch as
    they are: `prepare` and `augment` change the inputs alone.
    """

    name: str
    train: Arrays
    test: Arrays
    class_names: tuple[str, ...] = ()
    """Names of the classes; empty where the targets are real numbers."""
    target_name: str = "target"
    target_kind: str = ""
    """"labels", "series", "token" or "sequence" (see `Card`); "" to tell classes and numbers by `class_names`."""
    prepare: Standardize | TokenIds = Standardize()
    """Makes raw inputs ready for a model; part of every batch, in training and after."""
    augment: Augment = Augment()
    """Random changes to training inputs, drawn anew at every step."""
    source: str = "given by the caller"
    """Where the bytes came from."""
    tokenizer: Any = None
    """What turned a text into these tokens, and turns tokens into text (`data.tokenizers.Tokenizer`); None without text."""
    tokens: Tokens | None = None
    """What the inputs are made of, where they are tokens filled up with 0 (`class_names` are of the targets)."""
    columns: Any = None
    """What makes inputs of the rows of a table (`data.columns.Columns`); None where they come from no such table."""

    def __post_init__(self) -> None:
        for split, arrays in (("training", self.train), ("test", self.test)):
            if not len(arrays["targets"]):
                raise DataError(f"{self.name}: the {split} split is empty; give it at least one example")
        shape = self.train["inputs"].shape[1:]
        if len(shape) != 3 and self.augment != Augment(noise=self.augment.noise):
            raise DataError(
                f"{self.name}: shift, flip and cutout are for images [height, width, channels]; inputs have shape {shape}"
            )
        for split, arrays in (("training", self.train), ("test", self.test)):
            self.check_named(split, arrays)

    def check_named(self, what: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Raise `DataError` where a token or a label has no name: below 0, or past the last.

        Of targets that are tokens, those that are `IGNORED` do not count and need no name; some of a split have to count.
        """
        text = self.target_kind == "token" and isinstance(self.prepare, TokenIds)
        names = {"inputs": self.tokens.names if self.tokens else self.class_names if text else ()}
        if self.target_kind in ("", "class", "token", "sequence"):
            names["targets"] = self.class_names
        for key, known in names.items():
            if not known or key not in arrays:
                continue
            values, extra = np.asarray(arrays[key]), ""
            if key == "targets" and self.target_kind in ("token", "sequence") and values.dtype.kind == "i":
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
            if key == "targets" and self.target_kind in ("", "class"):
                kind, remedy = "labels", "number them from 0, or name every class in class_names"
            raise DataError(
                f"{self.name}: the {what} {key} hold {kind} from {int(values.min())} to {int(values.max())}, but "
                f"there are {len(known)}, numbered from 0{extra}; {remedy}"
            )

    @functools.cached_property
    def card(self) -> Card:
        """What a task may know before it sees a batch."""
        targets = self.train["targets"]
        numbers = not self.class_names
        return Card(
            name=self.name,
            input_shape=self._longest("inputs") if self.tokens else tuple(self.train["inputs"].shape[1:]),
            target_kind=self.target_kind or ("number" if numbers else "class"),
            examples={"train": len(targets), "test": len(self.test["targets"])},
            class_names=self.class_names,
            target_mean=float(targets.mean(dtype=np.float64)) if numbers else 0.0,
            target_std=float(targets.std(dtype=np.float64)) if numbers else 1.0,
            target_name=self.target_name,
            input_range=self._input_range(),
            target_shape=self._longest("targets"),
            tokens=self.tokens,
            target_scales=self._target_scales(),
        )

    def _longest(self, name: str) -> tuple[int, ...]:
        """The shape of an example that holds those of both splits: sequences are filled up to the longest of their split."""
        return tuple(map(max, zip(self.train[name].shape[1:], self.test[name].shape[1:], strict=False)))

    def _target_scales(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if self.target_kind != "series" or not isinstance(self.prepare, Standardize):
            return (), ()
        return self.prepare.mean, self.prepare.std

    def _input_range(self) -> tuple[float, float]:
        """Bounds of the prepared inputs of both splits; tight where all channels are scaled alike."""
        if not isinstance(self.prepare, Standardize):
            return 0.0, float(max(len(self.tokens.names if self.tokens else self.class_names) - 1, 0))
        low = min(float(split["inputs"].min()) for split in (self.train, self.test))
        high = max(float(split["inputs"].max()) for split in (self.train, self.test))
        mean, std = np.broadcast_arrays(self.prepare.mean, self.prepare.std)
        return float(((low - mean) / std).min()), float(((high - mean) / std).max())

    def as_raw(self, prepared: np.ndarray) -> np.ndarray:
        """Made inputs in the form in which the data keep theirs: of that dtype, rounded and cut to its range if integers."""
        if not isinstance(self.prepare, Standardize):
            raise DataError(f"the inputs of {self.name!r} are tokens, which have no inverse")
        raw, dtype = self.prepare.undo(prepared), self.train["inputs"].dtype
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            raw = np.clip(np.rint(raw), limits.min, limits.max)
        return raw.astype(dtype)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of every byte, shape, name and preparation: two sets with the same fingerprint train the same."""
        tokens = (self.tokens,) if self.tokens else ()
        digest = hashlib.sha256(repr((self.prepare, self.augment, self.class_names, *tokens)).encode())
        if self.tokenizer is not None:
            digest.update(self.tokenizer.digest.encode())
        for split in (self.train, self.test):
            for key in sorted(split):
                array = np.ascontiguousarray(split[key])
                digest.update(f"{key}{array.shape}{array.dtype.str}".encode())
                digest.update(array.data.cast("B") if array.size else b"")
        return digest.hexdigest()[:32]

    @property
    def nbytes(self) -> int:
        """Bytes of both splits in host memory."""
        return sum(array.nbytes for split in (self.train, self.test) for array in split.values())


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set by name and options, as a configuration holds it."""

    def open(self) -> Dataset:
        """Read it (downloading and checking where need be); raises `DataError`."""
        raise NotImplementedError

    def outline(self) -> Dataset:
        """A data set of which the shapes, dtypes and names alone are true, for a summary; sources that know them need not
        be opened."""
        return self.open()


def from_arrays(
    inputs: Any,
    targets: Any,
    *,
    test: tuple[Any, Any] | None = None,
    holdout: float = 0.2,
    seed: int = 0,
    name: str = "arrays",
    standardize: bool = True,
    class_names: Sequence[str] | None = None,
    target_name: str = "target",
    augment: Augment | None = None,
) -> Dataset:
    """A data set from arrays of your own; they are copied where they must be changed, never written to.

    Args:
        inputs: `[N, ...]` real numbers.
        targets: `[N]`: integers, booleans or strings make classes, floats make a regression. Or `[N, labels]`, all 0 or 1,
            whatever their dtype: several labels an example, for `MultiLabel`.
        test: held-out (inputs, targets); without it a share of the examples is set aside.
        holdout: that share, in (0, 1).
        seed: of the shuffle before the share is set aside.
        name: for messages and the report.
        standardize: scale inputs by the training examples' mean and standard deviation (images: one for each channel,
            otherwise one for each feature).
        class_names: names of classes 0, 1, ...; by default the distinct labels.
        target_name: what is predicted, for axis labels.
        augment: random changes to training inputs.

    Raises:
        DataError: lengths differ, a value is NaN or infinite, labels are negative or outside `class_names`.
    """
    x, y = np.asarray(inputs), np.asarray(targets)
    _check_lengths(name, x, y)
    if test is None:
        x, y, x_test, y_test = _hold_out(name, x, y, holdout, seed)
    else:
        x_test, y_test = np.asarray(test[0]), np.asarray(test[1])
        _check_lengths(f"{name}, test", x_test, y_test)
        if x_test.shape[1:] != x.shape[1:]:
            raise DataError(f"{name}: test inputs have shape {x_test.shape[1:]} each, training inputs {x.shape[1:]}")
    y, y_test, names = encode_targets(name, y, y_test, class_names)
    for split, array in (("training", x), ("test", x_test)):
        check_finite(f"{name}: {split} inputs", array)
    prepare = fit_standardize(x) if standardize else Standardize()
    if standardize and x.dtype.itemsize == 8:
        # The device computes in 32 bits: scale here, in 64, so that large numbers (dates, say) keep their differences.
        x, x_test = ((part - np.array(prepare.mean)) / np.array(prepare.std) for part in (x, x_test))
        prepare = Standardize()
    x, x_test = _narrow(x), _narrow(x_test)
    for split, array in (("training", x), ("test", x_test)):
        check_finite(f"{name}: {split} inputs, in 32 bits,", array)
    return Dataset(
        name=name,
        train={"inputs": x, "targets": y},
        test={"inputs": x_test, "targets": y_test},
        class_names=names,
        target_kind="labels" if y.ndim == 2 else "",
        target_name=target_name,
        prepare=prepare,
        augment=augment or Augment(),
    )


def fit_standardize(inputs: np.ndarray) -> Standardize:
    """Mean and standard deviation of each channel (images) or feature; a constant one is only centred."""
    dims = tuple(range(inputs.ndim - 1))
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = inputs.mean(axis=dims, dtype=np.float64), inputs.std(axis=dims, dtype=np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise DataError(f"inputs up to {np.abs(inputs).max():g} are too large to standardise; rescale them first")
    mean, std = np.atleast_1d(mean), np.atleast_1d(np.where(std > 0, std, 1.0))
    return Standardize(tuple(float(v) for v in mean), tuple(float(v) for v in std))


def _narrow(x: np.ndarray) -> np.ndarray:
    """Inputs as the device takes them: 64-bit numbers and booleans as float32, everything else as it is."""
    with np.errstate(over="ignore"):  # what overflows is found by the check that follows
        return x.astype(np.float32) if x.dtype.itemsize == 8 or x.dtype.kind == "b" else x


def _check_lengths(name: str, x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim < 2:
        raise DataError(f"{name}: inputs have shape {x.shape}; give [examples, features] (or images [N, H, W, C])")
    if not len(x):
        raise DataError(f"{name}: there are no examples; give at least one")
    if y.ndim not in (1, 2) or y.shape[1:] == (1,) or len(x) != len(y):
        raise DataError(f"{name}: targets have shape {y.shape} for {len(x)} inputs; give one target for each input")


def _hold_out(name: str, x: np.ndarray, y: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, ...]:
    count = round(len(x) * share) if 0 < share < 1 else 0
    if not 0 < count < len(x):
        raise DataError(
            f"{name}: holdout={share} of {len(x)} examples leaves an empty split; give more "
            f"examples, another share in (0, 1), or a test split of your own"
        )
    order = np.random.default_rng(seed).permutation(len(x))
    kept, held = order[count:], order[:count]
    return x[kept], y[kept], x[held], y[held]
