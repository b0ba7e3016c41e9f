"""A data set from the user's own arrays."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from jaxnets.core.errors import DataError, note
from jaxnets.data.augment import Augmentation, as_augment
from jaxnets.data.dataset import Dataset
from jaxnets.data.held_out import splits
from jaxnets.data.large import LazyArray, check_lazy
from jaxnets.data.prepare import Standardize, TokenIds, fit_standardize
from jaxnets.data.read_arrays import feature_names
from jaxnets.data.several import Input, layout, with_rules
from jaxnets.data.targets import TargetKind, check_finite, encode_targets

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
    augment: Augmentation | Sequence[Augmentation] | Callable[..., Any] | None = None,
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
        kind: what the targets are ("class", "labels" or "number"); overrides the rule above. "distribution": probabilities of
            the classes `[N, C]` (soft targets), each row at least 0 with a sum of 1. "any": numbers of any shape
            `[N, ...]`, which the batch holds as they are; the loss is yours.
        class_names: names of classes 0, 1, ...; by default the distinct labels.
        target_name: name of the predicted quantity, for axis labels.
        augment: random changes to training examples: an `Augment` or another of `data.augment`, a tuple of them, or a function
            `(key, inputs) -> inputs` of one example, as the model gets it.

    Raises:
        DataError: lengths differ, a value is missing or infinite, labels are negative or outside `class_names`, or an array
            has no unambiguous numeric form (masked values, dates, Python objects that are neither numbers nor text).
    """
    names = layout(name, inputs, targets)
    train, held, chosen_by = splits(
        name,
        (inputs, targets, weights),
        test,
        validation,
        names=names,
        kind=kind,
        holdout=holdout,
        by=split,
        groups=groups,
        seed=seed,
    )
    if class_names is None and train["targets"].ndim == 2 and kind not in ("number", "any", "distribution"):
        binary = bool(np.isin(train["targets"], (0, 1)).all())
        class_names = (feature_names(targets) or None) if binary else None  # a frame of labels names them
    seen = held["targets"] if chosen_by is None else np.concatenate([held["targets"], chosen_by["targets"]])
    found = encode_targets(name, train["targets"], seen, class_names, kind)
    train["targets"], held["targets"] = found.train, found.test[: len(held["targets"])]
    if chosen_by is not None:
        chosen_by["targets"] = found.test[len(held["targets"]) :]
    parts = {"training": train, "test": held} | ({} if chosen_by is None else {"validation": chosen_by})
    prepare: Standardize | TokenIds = TokenIds()
    several = with_rules(name, names, train, fit_scale if standardize else lambda *_: Standardize())
    if several:
        prepare = several[0].prepare
        if input_kind == "tokens":
            raise DataError(
                f"{name}: input_kind is for one array, and there are {len(several)} inputs; leave it out: {ASIS}"
            )
    elif input_kind == "tokens":
        _check_tokens(name, *(part["inputs"] for part in parts.values()))
    else:
        prepare = fit_scale(name, train["inputs"]) if standardize else Standardize()
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
        augment=as_augment(augment),
        feature_names=feature_names(inputs),
        several=several,
    )


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
