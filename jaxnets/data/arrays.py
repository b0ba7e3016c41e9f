"""A data set from the user's own arrays."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from jaxnets.core.errors import DataError, note
from jaxnets.core.scaling import LARGEST_EXACT
from jaxnets.data.augment import Augment, OwnAugment, as_augment
from jaxnets.data.dataset import Arrays, Dataset
from jaxnets.data.flavours import plain_numbers
from jaxnets.data.large import LazyArray, as_lazy, check_lazy, select
from jaxnets.data.prepare import Standardize, TokenIds, fit_standardize
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
    input_kind: Literal["numbers", "tokens"] = "numbers",
    kind: TargetKind = "auto",
    class_names: Sequence[str] | None = None,
    target_name: str = "target",
    augment: Augment | OwnAugment | Callable[..., Any] | None = None,
) -> Dataset:
    """A data set from your own arrays. They are kept unscaled and never written to; `predict` takes arrays of the same form.

    Args:
        inputs: `[N, ...]` real numbers; images are `[N, height, width, channels]`. The column names of a DataFrame are kept.
        targets: `[N]`: integers, booleans or strings are classes, floats are a regression target. `[N, K]`: values that are
            all 0 or 1 are several labels per example (NaN: unknown), or one-hot classes if each row has a single 1; other
            floats are several regression targets.
        weights: `[N]`, the weight of each training example, at least 0; equal by default.
        test: test split as (inputs, targets) or (inputs, targets, weights); None holds out a share of the examples.
        holdout: that share, in (0, 1).
        seed: seed of the shuffle before the holdout split.
        name: name for messages and the report.
        standardize: scale inputs by the training examples' mean and standard deviation (images: one for each channel,
            otherwise one for each feature).
        input_kind: "tokens": whole numbers that stand for tokens or categories; the model gets them as int32.
        kind: what the targets are ("class", "labels" or "number"); overrides the rule above.
        class_names: names of classes 0, 1, ...; by default the distinct labels.
        target_name: name of the predicted quantity, for axis labels.
        augment: random changes to training inputs: an `Augment`, or a function `(key, inputs) -> inputs` of one example, as
            the model gets it.

    Raises:
        DataError: lengths differ, a value is missing or infinite, labels are negative or outside `class_names`, or an array
            has no unambiguous numeric form (masked values, dates, Python objects that are neither numbers nor text).
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
    prepare: Standardize | TokenIds = TokenIds()
    if input_kind == "tokens":
        _check_tokens(name, train["inputs"], held["inputs"])
    else:
        prepare = fit_scale(name, train["inputs"]) if standardize else Standardize()
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
        augment=as_augment(augment),
        feature_names=feature_names(inputs),
    )


def feature_names(inputs: Any) -> tuple[str, ...]:
    """The column names of a DataFrame; () for anything else."""
    columns = getattr(inputs, "columns", None)
    if columns is None or not hasattr(inputs, "shape") or len(inputs.shape) != 2:
        return ()
    return tuple(str(column) for column in columns)


def _check_tokens(name: str, *splits: np.ndarray) -> None:
    """Raise `DataError` unless inputs are whole numbers of at most 31 bits, at least 0."""
    for inputs in splits:
        low, high = min(0, inputs.min()), max(0, inputs.max())
        if not np.issubdtype(inputs.dtype, np.integer) or low < 0 or high >= 2**31:
            raise DataError(
                f"{name}: input_kind='tokens' takes whole numbers from 0 to 2^31 - 1, got {inputs.dtype} from {low} to {high}"
            )


def fit_scale(name: str, inputs: Any) -> Standardize:
    """Mean and deviation of the training inputs; those of a lazy array are of a sample of its rows, which a note says."""
    if not isinstance(inputs, LazyArray):
        return fit_standardize(inputs)
    check_lazy(f"{name}: training inputs", inputs)
    # Also what needs no check is read once in the order of the file, before the sample jumps about in it.
    _ = inputs.extremes
    rows = inputs.sample_rows()
    if len(rows) < len(inputs):
        note(
            f"{name}: inputs are standardised by mean and deviation of {len(rows):,} of {len(inputs):,} training rows; "
            f"standardize=False leaves them as they are"
        )
    return fit_standardize(inputs[rows])


def check_prepared(what: str, prepare: Standardize | TokenIds, inputs: np.ndarray) -> None:
    """Raise `DataError` if a finite number overflows in float32; write a note if float32 loses differences."""
    if isinstance(inputs, LazyArray):
        rows = inputs.sample_rows()
        few = inputs[rows[:: max(1, len(rows) // 1000)]]
        ends = np.stack(inputs.extremes)
        for part in (few.reshape(-1, few.shape[-1]), ends):
            if (sent := prepare.on_host(part)) is not part:
                check_finite(what, sent)
                note_coarse(what, part, sent)
        return
    sent = prepare.on_host(inputs)
    if sent is not inputs:
        check_finite(what, sent)
        note_coarse(what, inputs, sent)


def note_coarse(what: str, numbers: np.ndarray, narrowed: np.ndarray) -> None:
    """Write a note if distinct numbers become equal in float32. This happens to large numbers that are not centred.

    Args:
        what: what the numbers are, for the message.
        numbers: `[N, ..., F]`; about 1,000 rows are checked.
        narrowed: the same numbers in float32.
    """
    rows = slice(None, None, max(1, len(numbers) // 1000))
    given, kept = (a[rows].reshape(-1, a.shape[-1]) for a in (numbers, narrowed))
    for feature in range(min(given.shape[1], 1000)):
        before, after = len(np.unique(given[:, feature])), len(np.unique(kept[:, feature]))
        if after < 0.9 * before:
            note(
                f"{what} lose digits: feature {feature} has {before} different values (from {given[:, feature].min():g} to "
                f"{given[:, feature].max():g}), and 32 bits keep {after} of them; subtract their mean first"
            )
            return


def check_inputs(name: str, what: str, inputs: Any) -> np.ndarray:
    """Inputs `[N, ...]` as plain finite numbers. Raises `DataError` for other values; notes images with channels first."""
    x: Any = as_lazy(f"{name}: {what} inputs", inputs)
    if not isinstance(x, LazyArray):
        x = plain_numbers(f"{name}: {what} inputs", inputs)
        _note_whole_numbers(f"{name}: {what} inputs", inputs, x)
    if x.ndim < 2:
        raise DataError(f"{name}: inputs have shape {x.shape}; give [examples, features] (or images [N, H, W, C])")
    if not len(x):
        raise DataError(f"{name}: there are no examples; give at least one")
    if not x.size:
        raise DataError(f"{name}: inputs have shape {x.shape}, without a single number; give at least one feature")
    if not isinstance(x, LazyArray):  # lazy ones are checked once they are split
        check_finite(f"{name}: {what} inputs", x)
    if x.ndim == 4 and x.shape[1] in (1, 3, 4) and x.shape[3] > 4 and x.shape[2] > 4:
        note(
            f"{name}: inputs {x.shape} look like images with their channels first; here they come last, "
            f"[N, height, width, channels]: np.moveaxis(x, 1, -1)"
        )
    return x


def _note_whole_numbers(what: str, frame: Any, made: np.ndarray) -> None:
    """Write a note if a DataFrame became one float array that cannot represent the integers of one of its columns."""
    if made.dtype.kind == "f" and feature_names(frame) and hasattr(frame, "dtypes"):
        whole = [i for i, dtype in enumerate(frame.dtypes) if str(dtype).lower() in ("int64", "uint64")]
        coarse = [i for i in whole if np.abs(made[:, i]).max(initial=0) >= LARGEST_EXACT]
        if coarse:
            note(
                f"{what}: column {feature_names(frame)[coarse[0]]!r} has integers too large for floats, and lost digits "
                f"because other columns are floats; subtract its first value, or give it in larger units"
            )


def _read(name: str, what: str, inputs: Any, targets: Any, weights: Any = None) -> Arrays:
    """One split as plain arrays of equal length."""
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
            f"{name}: the test inputs have the columns {', '.join(test[:8])}, the training inputs "
            f"{', '.join(train[:8])}; put them in the same order: test[list(train.columns)]"
        )


def holdout_rows(name: str, rows: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the training and of the test split, drawn by a seed; raises `DataError` if one would be empty."""
    count = round(rows * share) if 0 < share < 1 else 0
    if not 0 < count < rows:
        raise DataError(
            f"{name}: holdout={share} of {rows} examples leaves an empty split; give more "
            f"examples, another share in (0, 1), or your own test split"
        )
    order = np.random.default_rng(seed).permutation(rows)
    return order[count:], order[:count]


def _hold_out(name: str, arrays: Arrays, share: float, seed: int) -> tuple[Arrays, Arrays]:
    train, test = (
        {key: select(array, part) for key, array in arrays.items()}
        for part in holdout_rows(name, len(arrays["inputs"]), share, seed)
    )
    return train, test
