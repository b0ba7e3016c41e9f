"""A data set from arrays of the user's own."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError, note
from jaxnets.core.scaling import LARGEST_EXACT
from jaxnets.data.augment import Augment
from jaxnets.data.dataset import Arrays, Dataset
from jaxnets.data.flavours import plain_numbers
from jaxnets.data.prepare import Standardize, fit_standardize
from jaxnets.data.split import check_weights, counted
from jaxnets.data.targets import TargetKind, check_finite, encode_targets, read_targets


def from_arrays(
    inputs: Any,
    targets: Any,
    *,
    weights: Any = None,
    test: tuple[Any, ...] | None = None,
    holdout: float = 0.2,
    seed: int = 0,
    name: str = "arrays",
    standardize: bool = True,
    kind: TargetKind = "auto",
    class_names: Sequence[str] | None = None,
    target_name: str = "target",
    augment: Augment | None = None,
) -> Dataset:
    """A data set from arrays of your own; they are never written to, and kept as they are: `predict` takes the like.

    Args:
        inputs: `[N, ...]` real numbers; images are `[N, height, width, channels]`. The names of a frame's columns are kept.
        targets: `[N]`: integers, booleans or strings make classes, floats make a regression. `[N, K]`: all 0 or 1 make several
            labels an example (NaN: unknown), or classes where each row has a single 1; other floats make several numbers.
        weights: `[N]`, how much each training example counts, at least 0; all alike by default.
        test: held-out (inputs, targets) or (inputs, targets, weights); without it a share of the examples is set aside.
        holdout: that share, in (0, 1).
        seed: of the shuffle before the share is set aside.
        name: for messages and the report.
        standardize: scale inputs by the training examples' mean and standard deviation (images: one for each channel,
            otherwise one for each feature).
        kind: what the targets are ("class", "labels" or "number"), where the rule above is not what is meant.
        class_names: names of classes 0, 1, ...; by default the distinct labels.
        target_name: what is predicted, for axis labels.
        augment: random changes to training inputs.

    Raises:
        DataError: lengths differ, a value is missing or infinite, labels are negative or outside `class_names`, an array is of
            a make that would have to be guessed at (masked, dates, Python objects that are neither numbers nor text).
    """
    train = _read(name, "training", inputs, targets, weights)
    if test is None:
        train, held = _hold_out(name, train, holdout, seed)
    else:
        if not isinstance(test, tuple | list) or len(test) not in (2, 3):
            raise DataError(
                f"{name}: test is (inputs, targets) or (inputs, targets, weights), got {type(test).__name__}"
            )
        held = _read(f"{name}, test", "test", *test)
        if held["inputs"].shape[1:] != train["inputs"].shape[1:]:
            raise DataError(
                f"{name}: test inputs have shape {held['inputs'].shape[1:]} each, training inputs {train['inputs'].shape[1:]}"
            )
        _check_names(name, feature_names(inputs), feature_names(test[0]))
    if class_names is None and train["targets"].ndim == 2 and kind != "number":
        binary = bool(np.isin(train["targets"], (0, 1)).all())
        class_names = (feature_names(targets) or None) if binary else None  # a frame of labels names them
    found = encode_targets(name, train["targets"], held["targets"], class_names, kind)
    train["targets"], held["targets"] = found.train, found.test
    prepare = fit_standardize(train["inputs"]) if standardize else Standardize()
    for split, arrays in (("training", train), ("test", held)):
        check_prepared(f"{name}: {split} inputs, in 32 bits,", prepare, arrays["inputs"])
    return Dataset(
        name=name,
        train=train,
        test=held,
        class_names=found.names,
        target_kind=found.kind,
        target_name=target_name,
        prepare=prepare,
        augment=augment or Augment(),
        feature_names=feature_names(inputs),
    )


def feature_names(inputs: Any) -> tuple[str, ...]:
    """The names of a frame's columns; () for what is no frame."""
    columns = getattr(inputs, "columns", None)
    if columns is None or not hasattr(inputs, "shape") or len(inputs.shape) != 2:
        return ()
    return tuple(str(column) for column in columns)


def check_prepared(what: str, prepare: Standardize, inputs: np.ndarray) -> None:
    """Raise `DataError` where a finite number is none any more in the 32 bits of the device; note lost differences."""
    sent = prepare.on_host(inputs)
    if sent is not inputs:
        check_finite(what, sent)
        note_coarse(what, inputs, sent)


def note_coarse(what: str, numbers: np.ndarray, narrowed: np.ndarray) -> None:
    """Say where 32 bits make equal what was not: numbers that are large, and taken as they are instead of centred.

    Args:
        what: what they are, for the message.
        numbers: `[N, ..., F]`, of which some rows are looked at.
        narrowed: the same in float32.
    """
    rows = slice(None, None, max(1, len(numbers) // 1000))
    given, kept = (a[rows].reshape(-1, a.shape[-1]) for a in (numbers, narrowed))
    for feature in range(min(given.shape[1], 1000)):
        before, after = len(np.unique(given[:, feature])), len(np.unique(kept[:, feature]))
        if after < 0.9 * before:
            note(
                f"{what} lose digits: of {before} different values of feature {feature} (from {given[:, feature].min():g} to "
                f"{given[:, feature].max():g}) 32 bits tell {after} apart; subtract their mean first"
            )
            return


def check_inputs(name: str, what: str, inputs: Any) -> np.ndarray:
    """Inputs `[N, ...]` as plain finite numbers; raises `DataError` for what is none, and notes what looks turned around."""
    x = plain_numbers(f"{name}: {what} inputs", inputs)
    _note_whole_numbers(f"{name}: {what} inputs", inputs, x)
    if x.ndim < 2:
        raise DataError(f"{name}: inputs have shape {x.shape}; give [examples, features] (or images [N, H, W, C])")
    if not len(x):
        raise DataError(f"{name}: there are no examples; give at least one")
    if not x.size:
        raise DataError(f"{name}: inputs have shape {x.shape}, without a single number; give at least one feature")
    check_finite(f"{name}: {what} inputs", x)
    if x.ndim == 4 and x.shape[1] in (1, 3, 4) and x.shape[3] > 4 and x.shape[2] > 4:
        note(
            f"{name}: inputs {x.shape} look like images with their channels first; here they come last, "
            f"[N, height, width, channels]: np.moveaxis(x, 1, -1)"
        )
    return x


def _note_whole_numbers(what: str, frame: Any, made: np.ndarray) -> None:
    """Say where the columns of a frame became one array of floats that does not hold a column's whole numbers."""
    if made.dtype.kind == "f" and feature_names(frame) and hasattr(frame, "dtypes"):
        whole = [i for i, dtype in enumerate(frame.dtypes) if str(dtype).lower() in ("int64", "uint64")]
        coarse = [i for i in whole if np.abs(made[:, i]).max(initial=0) >= LARGEST_EXACT]
        if coarse:
            note(
                f"{what}: column {feature_names(frame)[coarse[0]]!r} has whole numbers that floats do not hold, and lost "
                f"digits beside columns of floats; subtract its first value, or give it in larger units"
            )


def _read(name: str, what: str, inputs: Any, targets: Any, weights: Any = None) -> Arrays:
    """One split as plain arrays of one length."""
    x = check_inputs(name, what, inputs)
    y = read_targets(f"{name}: the {what} targets", targets)
    if len(x) != len(y):
        raise DataError(f"{name}: targets have shape {y.shape} for {len(x)} inputs; give one target for each input")
    arrays = {"inputs": x, "targets": y}
    if weights is not None:
        arrays["weights"] = check_weights(
            f"{name}: the {what} weights", plain_numbers(f"{name}: weights", weights), len(x)
        )
    return counted(arrays)


def _check_names(name: str, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    if train and test and train != test:
        raise DataError(
            f"{name}: the columns of the test inputs are {', '.join(test[:8])}, those of the training {', '.join(train[:8])}; "
            f"bring them into one order: test[list(train.columns)]"
        )


def _hold_out(name: str, arrays: Arrays, share: float, seed: int) -> tuple[Arrays, Arrays]:
    rows = len(arrays["inputs"])
    count = round(rows * share) if 0 < share < 1 else 0
    if not 0 < count < rows:
        raise DataError(
            f"{name}: holdout={share} of {rows} examples leaves an empty split; give more "
            f"examples, another share in (0, 1), or a test split of your own"
        )
    order = np.random.default_rng(seed).permutation(rows)
    return tuple({key: array[part] for key, array in arrays.items()} for part in (order[count:], order[:count]))  # type: ignore[return-value]
