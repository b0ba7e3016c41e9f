"""A data set from the user's own arrays."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jaxnets.core.errors import DataError, note
from jaxnets.core.scaling import LARGEST_EXACT
from jaxnets.data.augment import Augment
from jaxnets.data.dataset import Arrays, Dataset
from jaxnets.data.flavours import plain_array, plain_numbers
from jaxnets.data.prepare import Standardize, TokenIds, fit_standardize
from jaxnets.data.rows import split_rows
from jaxnets.data.several import Input, by_array, layout, with_rules
from jaxnets.data.split import check_weights, counted
from jaxnets.data.targets import TargetKind, check_finite, encode_targets, read_targets

# Where whole numbers among several inputs stay whole.
ASIS = "whole numbers that are no images stay whole numbers"


def from_arrays(
    inputs: Any,
    targets: Any,
    *,
    weights: Any = None,
    test: tuple[Any, ...] | None = None,
    holdout: float = 0.2,
    validation: float | tuple[Any, ...] | None = None,
    split: Literal["random", "class", "time"] = "random",
    groups: Any = None,
    seed: int = 0,
    name: str = "arrays",
    standardize: bool = True,
    input_kind: Literal["numbers", "tokens"] = "numbers",
    kind: TargetKind = "auto",
    class_names: Sequence[str] | None = None,
    target_name: str = "target",
    augment: Augment | None = None,
) -> Dataset:
    """A data set from your own arrays. They are kept unscaled and never written to; `predict` takes arrays of the same form.

    Args:
        inputs: `[N, ...]` real numbers; images are `[N, height, width, channels]`. The column names of a DataFrame are kept.
            For a model with several inputs, a dict of arrays by the names of its arguments, or a tuple of arrays in their
            order. Then each has its own scale, and whole numbers that are no images stay as they are (`data.several`).
        targets: `[N]`: integers, booleans or strings are classes, floats are a regression target. `[N, K]`: values that are
            all 0 or 1 are several labels per example (NaN: unknown), or one-hot classes if each row has a single 1; other
            floats are several regression targets.
        weights: `[N]`, the weight of each training example, at least 0; equal by default.
        test: test split as (inputs, targets) or (inputs, targets, weights); None holds out a share of the examples.
        holdout: that share, in (0, 1).
        validation: the validation split, by which a run chooses (early stopping, the best checkpoint): arrays as for `test`,
            or a share of the training examples. None: see `Validation`.
        split: which examples are held out: random ones, the same share of each class, or the last ones (time).
        groups: `[N]`, a number or name for each example; examples of one group (a patient, say) stay in one split.
        seed: seed of the draws for these splits.
        name: name for messages and the report.
        standardize: scale inputs by the training examples' mean and standard deviation (images: one for each channel,
            otherwise one for each feature).
        input_kind: "tokens": whole numbers that stand for tokens or categories; the model gets them as int32.
        kind: what the targets are ("class", "labels" or "number"); overrides the rule above.
        class_names: names of classes 0, 1, ...; by default the distinct labels.
        target_name: name of the predicted quantity, for axis labels.
        augment: random changes to training inputs.

    Raises:
        DataError: lengths differ, a value is missing or infinite, labels are negative or outside `class_names`, or an array
            has no unambiguous numeric form (masked values, dates, Python objects that are neither numbers nor text).
    """
    names = layout(name, inputs, targets)
    train, held, chosen_by = _splits(
        name,
        (inputs, targets, weights),
        test,
        validation,
        names=names,
        holdout=holdout,
        by=split,
        groups=groups,
        seed=seed,
    )
    if class_names is None and train["targets"].ndim == 2 and kind != "number":
        binary = bool(np.isin(train["targets"], (0, 1)).all())
        class_names = (feature_names(targets) or None) if binary else None  # a frame of labels names them
    seen = held["targets"] if chosen_by is None else np.concatenate([held["targets"], chosen_by["targets"]])
    found = encode_targets(name, train["targets"], seen, class_names, kind)
    train["targets"], held["targets"] = found.train, found.test[: len(held["targets"])]
    if chosen_by is not None:
        chosen_by["targets"] = found.test[len(held["targets"]) :]
    parts = {"training": train, "test": held} | ({} if chosen_by is None else {"validation": chosen_by})
    prepare: Standardize | TokenIds = TokenIds()
    several = with_rules(name, names, train, standardize)
    if several:
        prepare = several[0].prepare
        if input_kind == "tokens":
            raise DataError(
                f"{name}: input_kind is for one array, and there are {len(several)} inputs; leave it out: {ASIS}"
            )
    elif input_kind == "tokens":
        _check_tokens(name, *(part["inputs"] for part in parts.values()))
    else:
        prepare = fit_standardize(train["inputs"]) if standardize else Standardize()
    for part, arrays in parts.items():
        for one in several or (Input("", "inputs", prepare),):
            check_prepared(f"{name}: {part} {one.array}, in 32 bits,", one.prepare, arrays[one.array])
    return Dataset(
        name=name,
        train=train,
        test=held,
        validation=chosen_by,
        class_names=found.names,
        target_kind=found.kind,
        target_name=target_name,
        prepare=prepare,
        augment=augment or Augment(),
        feature_names=feature_names(inputs),
        several=several,
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
        if not np.issubdtype(inputs.dtype, np.integer) or inputs.min(initial=0) < 0 or inputs.max(initial=0) >= 2**31:
            raise DataError(
                f"{name}: input_kind='tokens' takes whole numbers from 0 to 2^31 - 1, got {inputs.dtype} from "
                f"{inputs.min(initial=0)} to {inputs.max(initial=0)}"
            )


def check_prepared(what: str, prepare: Standardize | TokenIds, inputs: np.ndarray) -> None:
    """Raise `DataError` if a finite number overflows in float32; write a note if float32 loses differences."""
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


def check_inputs(name: str, what: str, inputs: Any, *, dims: int = 2) -> np.ndarray:
    """Inputs `[N, ...]` of at least `dims` dims as plain finite numbers. Raises `DataError` for other values; notes images
    with channels first."""
    x = plain_numbers(f"{name}: {what} inputs", inputs)
    _note_whole_numbers(f"{name}: {what} inputs", inputs, x)
    if x.ndim < dims:
        raise DataError(
            f"{name}: inputs have shape {x.shape}; give [examples, features] (or images [N, H, W, C]); one "
            f"number for each example is x[:, None], of a frame frame[['name']]"
        )
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
    """Write a note if a DataFrame became one float array that cannot represent the integers of one of its columns."""
    if made.dtype.kind == "f" and feature_names(frame) and hasattr(frame, "dtypes"):
        whole = [i for i, dtype in enumerate(frame.dtypes) if str(dtype).lower() in ("int64", "uint64")]
        coarse = [i for i in whole if np.abs(made[:, i]).max(initial=0) >= LARGEST_EXACT]
        if coarse:
            note(
                f"{what}: column {feature_names(frame)[coarse[0]]!r} has integers too large for floats, and lost digits "
                f"because other columns are floats; subtract its first value, or give it in larger units"
            )


def _read(name: str, what: str, inputs: Any, targets: Any, weights: Any = None, *, names: Any = ()) -> Arrays:
    """One split as plain arrays of equal length; `names` are the several inputs, if there are (see `layout`)."""
    y = read_targets(f"{name}: the {what} targets", targets)
    if names:
        given = by_array(inputs, names)
        arrays = {key: check_inputs(f"{name}: {key}", what, given[key], dims=1) for key in given}
    else:
        arrays = {"inputs": check_inputs(name, what, inputs)}
    for key, x in arrays.items():
        if len(x) != len(y):
            raise DataError(f"{name}: targets have shape {y.shape} for {len(x)} {key}; give one target for each input")
    x = arrays["inputs"]
    arrays["targets"] = y
    if weights is not None:
        arrays["weights"] = check_weights(
            f"{name}: the {what} weights", plain_numbers(f"{name}: weights", weights), len(x)
        )
    return counted(arrays)


def _check_names(name: str, what: str, train: tuple[str, ...], held: tuple[str, ...]) -> None:
    if train and held and train != held:
        raise DataError(
            f"{name}: the {what} inputs have the columns {', '.join(held[:8])}, the training inputs "
            f"{', '.join(train[:8])}; put them in the same order: {what}[list(train.columns)]"
        )


def _splits(
    name: str,
    given: tuple[Any, Any, Any],
    test: Any,
    validation: Any,
    *,
    names: Any,
    holdout: float,
    by: str,
    groups: Any,
    seed: int,
) -> tuple[Arrays, Arrays, Arrays | None]:
    """Training, test and (where wanted) validation arrays."""
    train = _read(name, "training", *given, names=names)
    group = _groups(name, groups, given[1])
    if group is not None and len(group) != len(train["targets"]):
        group = group[
            np.flatnonzero(plain_numbers(f"{name}: weights", given[2]))
        ]  # examples with weight 0 were dropped
    if test is None:
        train, held, group = _hold_out(name, train, "holdout", holdout, by, group, seed)
    else:
        held = _read_held(name, "test", test, given[0], train, names)
    if validation is None:
        return train, held, None
    if isinstance(validation, int | float):
        train, chosen_by, _ = _hold_out(name, train, "validation", validation, by, group, seed + 1)
        return train, held, chosen_by
    return train, held, _read_held(name, "validation", validation, given[0], train, names)


def _read_held(name: str, what: str, given: Any, inputs: Any, train: Arrays, names: Any) -> Arrays:
    """A test or validation split that is given as arrays."""
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise DataError(
            f"{name}: {what} is (inputs, targets) or (inputs, targets, weights), got {type(given).__name__}"
        )
    held = _read(f"{name}, {what}", what, *given, names=names)
    for key in train.keys() - {"targets", "weights"}:
        if key not in held or held[key].shape[1:] != train[key].shape[1:]:
            shape = f"have shape {held[key].shape[1:]} each" if key in held else "are not there"
            raise DataError(f"{name}: {what} {key} {shape}, training {key} {train[key].shape[1:]}")
    _check_names(name, what, feature_names(inputs), feature_names(given[0]))
    return held


def _groups(name: str, groups: Any, targets: Any) -> np.ndarray | None:
    """The group of each example `[N]`; raises `DataError` unless there is one for each."""
    if groups is None:
        return None
    found = plain_array(f"{name}: groups", groups)
    if found.shape != (len(targets),):
        raise DataError(
            f"{name}: groups have shape {found.shape} for {len(targets)} examples; give one number or name for each"
        )
    return found


def _hold_out(
    name: str, arrays: Arrays, what: str, share: float, by: str, groups: np.ndarray | None, seed: int
) -> tuple[Arrays, Arrays, np.ndarray | None]:
    """The rows that stay, those that are held out, and the groups of those that stay."""
    rows = len(arrays["inputs"])
    if not 0 < share < 1 or by not in ("random", "class", "time"):
        raise DataError(
            f"{name}: {what}={share} and split={by!r}; give a share in (0, 1) of the {rows} examples, drawn by 'random', "
            f"'class' or 'time', or arrays of your own"
        )
    if what == "holdout" and by == "random" and groups is None:
        kept, held = _shuffled(name, rows, share, seed)
    else:
        kept, held = split_rows(arrays["targets"], share, by, seed, groups=groups, what=f"{name}: {what}={share}")
    return (
        {key: array[kept] for key, array in arrays.items()},
        {key: array[held] for key, array in arrays.items()},
        None if groups is None else groups[kept],
    )


def _shuffled(name: str, rows: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of training and test, both in a random order, as older runs on arrays have them."""
    count = round(rows * share)
    if not 0 < count < rows:
        raise DataError(
            f"{name}: holdout={share} of {rows} examples leaves an empty split; give more "
            f"examples, another share in (0, 1), or your own test split"
        )
    order = np.random.default_rng(seed).permutation(rows)
    return order[count:], order[:count]
