"""The kind of targets (classes, several labels per example, or real numbers), and their encoding for the tasks."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxnets.core.errors import DataError, note
from jaxnets.data.distributions import distributions
from jaxnets.data.flavours import plain_array, plain_numbers

TargetKind = Literal["auto", "class", "distribution", "labels", "number", "any"]
# How NumPy and spreadsheets write a missing value as text. It may still be a class ("nan" is a bread).
LOOKS_MISSING = ("", "?", "nan", "none", "null", "na", "n/a", "nat", "<na>")
# The value of an unknown label.
UNKNOWN_LABEL = -1
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


class Targets(NamedTuple):
    """The targets of both splits, encoded."""

    kind: str
    """"class": class numbers `[N]` int32; "distribution": probabilities `[N, C]` float32; "labels": `[N, L]` of 0, 1 and -1
    (unknown); "number": real numbers `[N]` or `[N, K]` in their own dtype; "any": numbers `[N, ...]` as they were given."""
    train: np.ndarray
    test: np.ndarray
    names: tuple[str, ...]
    """Names of the classes or labels, in order; () for numbers."""


def check_finite(what: str, array: np.ndarray) -> None:
    """Raise `DataError` if an array has a NaN or infinity; the message names the first."""
    if array.dtype.kind in "iub":
        return
    if array.dtype.kind != "f":
        raise DataError(f"{what} have dtype {array.dtype}; give real numbers")
    bad = ~np.isfinite(array)
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{what} hold {int(bad.sum())} NaN or infinite values, the first at index {place} ({array[place]}); "
            f"remove or fill them"
        )


def read_targets(what: str, values: Any) -> np.ndarray:
    """Targets as a plain array `[N]` or `[N, K]`; a column `[N, 1]` becomes `[N]`. Raises `DataError` for other shapes."""
    array = plain_array(what, values)
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim not in (1, 2) or 0 in array.shape[1:]:
        raise DataError(f"{what} have shape {array.shape}; give [examples], or [examples, targets] for several targets")
    return array


def encode_targets(
    name: str, y: Any, y_test: Any, class_names: Sequence[str] | None = None, kind: TargetKind = "auto"
) -> Targets:
    """Encode training and test targets for the tasks.

    One dim: integers, booleans and text are classes, floats are numbers. Two dims: values that are all 0 or 1 are several
    labels per example, or one-hot classes if each row has a single 1; other floats are several numbers.

    Args:
        name: name of the data, for messages.
        y: training targets, `[N]`, `[N, 1]` or `[N, K]`.
        y_test: test targets, of the same kind.
        class_names: names of classes 0, 1, ... or of the labels.
        kind: their kind; overrides the rule above.

    Raises:
        DataError: the two splits differ in kind, or a value is not a valid target.
    """
    if kind == "any":
        y, y_test = (
            plain_numbers(f"{name}: the training targets", y),
            plain_numbers(f"{name}: the test targets", y_test),
        )
        return Targets("any", y, y_test, tuple(map(str, class_names or ())))
    y, y_test = read_targets(f"{name}: the training targets", y), read_targets(f"{name}: the test targets", y_test)
    if y_test.shape[1:] != y.shape[1:]:
        raise DataError(f"{name}: test targets have shape {y_test.shape}, training targets {y.shape}; make them equal")
    _check_same_kind(name, y, y_test)
    if kind == "distribution":
        return Targets("distribution", *distributions(name, y, y_test, class_names))
    if y.ndim == 2:
        return _several(name, y, y_test, class_names, kind)
    if kind == "labels":
        raise DataError(f"{name}: kind='labels' needs targets [examples, labels], got {y.shape}")
    if y.dtype.kind == "f" and kind == "class":
        y, y_test = (_whole(f"{name}: the {split} labels", part) for split, part in (("training", y), ("test", y_test)))
    if kind == "number" and y.dtype.kind in "SU":
        raise DataError(f"{name}: kind='number', but the targets are text, e.g. {y[0]!r}; convert them to numbers")
    if kind == "number" or (y.dtype.kind == "f" and kind == "auto"):
        return _numbers(name, y, y_test, class_names, kind)
    if y.dtype.kind in "SU":
        return _words(name, y, y_test, class_names)
    return _class_numbers(name, y, y_test, class_names)


def _check_same_kind(name: str, y: np.ndarray, y_test: np.ndarray) -> None:
    kinds = {"f": "real numbers", "i": "integers", "u": "integers", "b": "integers", "U": "text"}
    train_kind, test_kind = kinds[y.dtype.kind], kinds[y_test.dtype.kind]
    if train_kind != test_kind and y.ndim == 1:
        raise DataError(
            f"{name}: the training targets are {train_kind}, the test targets {test_kind}; make them the same"
        )


def _whole(what: str, labels: np.ndarray) -> np.ndarray:
    """Cast floats with whole values to integers; raises `DataError` for other values."""
    check_finite(what, labels)
    wrong = np.flatnonzero(labels != np.rint(labels))
    if wrong.size or (np.abs(labels) >= 2**53).any():
        place = int(wrong[0]) if wrong.size else int(np.abs(labels).argmax())
        raise DataError(
            f"{what} are floats, and {labels[place]!r} at index {place} is not a whole number, or is too large "
            f"for floats; give integers or text"
        )
    return labels.astype(np.int64)


def _numbers(name: str, y: np.ndarray, y_test: np.ndarray, class_names: Any, kind: str) -> Targets:
    check_finite(f"{name}: training targets", y)
    check_finite(f"{name}: test targets", y_test)
    if class_names is not None:
        raise DataError(
            f"{name}: class_names are given, but the targets are real numbers; give integers or text, or kind='class'"
        )
    values = np.unique(y) if kind == "auto" and y.ndim == 1 else np.zeros(0)
    binary = values.size == 2 and values.tolist() == [0, 1]
    if binary or (len(y) >= 10 and 0 < values.size <= 10 and _all_whole(values)):
        which = "that are all 0 or 1," if binary else f"with {values.size} distinct whole values"
        note(
            f"{name}: the targets are floats {which} and are treated as numbers (regression); for classes give integers, "
            f"y.astype(int), or from_arrays(..., kind='class')"
        )
    return Targets("number", y, y_test, ())


def _all_whole(values: np.ndarray) -> bool:
    return bool((values == np.rint(values)).all())


def _words(name: str, y: np.ndarray, y_test: np.ndarray, class_names: Sequence[str] | None) -> Targets:
    seen, tested = Counter(y.tolist()), Counter(y_test.tolist())
    found = seen.keys() | tested.keys()
    words = [str(word) for word in class_names] if class_names is not None else sorted(found, key=natural_order)
    unknown = sorted(found - set(words))
    if unknown:
        raise DataError(f"{name}: label {unknown[0]!r} is not among the class names {', '.join(words)}")
    if len(set(words)) < len(words):
        raise DataError(
            f"{name}: class_names names {Counter(words).most_common(1)[0][0]!r} twice; give each class one name"
        )
    if len(words) >= 20 and len(words) > 0.9 * (len(y) + len(y_test)):
        raise DataError(
            f"{name}: {len(words)} different labels for {len(y) + len(y_test)} examples are too many for classes, e.g. "
            f"{words[0]!r}; if they are numbers written as text, give y.astype(float)"
        )
    _note_doubtful(name, found if class_names is None else (), tested.keys() - seen.keys())
    code = {word: index for index, word in enumerate(words)}
    y, y_test = (np.array([code[v] for v in part.tolist()], np.int32) for part in (y, y_test))
    return Targets("class", y, y_test, tuple(words))


def _note_doubtful(name: str, found: Any, only_tested: Any) -> None:
    """Write notes about classes that look unintended. Classes that the caller named are not checked for spelling."""
    missing = sorted(word for word in found if word.strip().lower() in LOOKS_MISSING)
    if missing:
        note(f"{name}: {missing[0]!r} is taken as a class; if it marks a missing label, leave those rows out")
    alike: dict[str, list[str]] = {}
    for word in sorted(found):
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", word).casefold().split()), []).append(word)
    twins = next((words for words in alike.values() if len(words) > 1), None)
    if twins:
        note(
            f"{name}: {' and '.join(map(repr, twins))} are different classes; if they are one, spell them the same way"
        )
    if only_tested:
        shown = ", ".join(repr(word) for word in sorted(only_tested)[:4])
        note(
            f"{name}: {len(only_tested)} classes are in the test and not in the training data ({shown}); a model cannot learn "
            f"them"
        )


def _class_numbers(name: str, y: np.ndarray, y_test: np.ndarray, class_names: Sequence[str] | None) -> Targets:
    highest = int(max(y.max(initial=0), y_test.max(initial=0)))
    if class_names is None and highest >= max(len(y), 2):
        raise DataError(
            f"{name}: integer targets are classes, but they run up to {highest} for {len(y)} examples. For a regression "
            f"give floats; for classes number them 0, 1, 2, ..., or give their names: y.astype(str)"
        )
    names = tuple(map(str, class_names)) if class_names is not None else tuple(str(i) for i in range(highest + 1))
    for split, labels in (("training", y), ("test", y_test)):
        outside = (labels < 0) | (labels >= len(names))
        if outside.any():
            place = int(np.flatnonzero(outside)[0])
            raise DataError(
                f"{name}: {split} label {labels[place]} at index {place} is out of range; classes are numbered from 0"
                + (
                    f" to {len(names) - 1}, the {len(names)} of class_names"
                    if class_names is not None
                    else "; to use other numbers as names, give y.astype(str)"
                )
            )
    empty = np.setdiff1d(np.arange(len(names)), y)
    if empty.size and class_names is None:
        note(
            f"{name}: class labels run from 0 to {highest}, and {empty.size} of these classes have no training example (the "
            f"first is {empty[0]}); number the classes from 0, or give their names: y.astype(str)"
        )
    return Targets("class", y.astype(np.int32), y_test.astype(np.int32), names)


def _several(
    name: str, y: np.ndarray, y_test: np.ndarray, class_names: Sequence[str] | None, kind: TargetKind
) -> Targets:
    """Encode targets `[N, K]`."""
    if y.dtype.kind == "U" or y_test.dtype.kind == "U":
        raise DataError(
            f"{name}: targets {y.shape} are text; give one label for each example, or a column of 0 and 1 for each label"
        )
    parts = (y, y_test)
    binary = bool(((y == 0) | (y == 1) | _unknown(y)).all())  # the training targets decide; `_labels` checks the test
    known = not any(_unknown(part).any() for part in parts)
    one_hot = binary and known and all(((part == 1).sum(axis=1) == 1).all() and part.max() == 1 for part in parts)
    if kind == "class" and not one_hot:
        raise DataError(
            f"{name}: kind='class' needs one-hot targets, a single 1 in each row; the targets {y.shape} are not one-hot; for "
            f"probabilities of the classes, kind='distribution'"
        )
    if kind == "class" or (kind == "auto" and one_hot and y.shape[1] > 1):
        if kind == "auto":
            note(
                f"{name}: each row of the targets {y.shape} holds a single 1, so they are taken as one-hot: one of "
                f"{y.shape[1]} classes that exclude each other; for labels that do not, from_arrays(..., kind='labels')"
            )
        classes = [part.argmax(axis=1).astype(np.int32) for part in parts]
        names = tuple(map(str, class_names)) if class_names is not None else tuple(str(i) for i in range(y.shape[1]))
        if len(names) != y.shape[1]:
            raise DataError(
                f"{name}: class_names has {len(names)} names for the {y.shape[1]} classes of one-hot targets"
            )
        return Targets("class", classes[0], classes[1], names)
    if kind == "number" or (kind == "auto" and not binary and y.dtype.kind == "f" and class_names is None):
        if kind == "auto" and all(_shares(part) for part in parts):
            note(
                f"{name}: each row of the targets {y.shape} adds up to 1; they are treated as {y.shape[1]} real numbers, not "
                f"as class probabilities; for those, from_arrays(..., kind='distribution')"
            )
        return _numbers(name, y, y_test, class_names, kind)
    return _labels(name, y, y_test, class_names)


def _unknown(part: np.ndarray) -> np.ndarray:
    return np.isnan(part) if part.dtype.kind == "f" else np.zeros(part.shape, bool)


def _shares(part: np.ndarray) -> bool:
    return bool((part >= 0).all() and np.allclose(part.sum(axis=1), 1, atol=1e-4))


def _labels(name: str, y: np.ndarray, y_test: np.ndarray, class_names: Sequence[str] | None) -> Targets:
    """Encode several labels per example: 0, 1, or NaN for unknown."""
    names = tuple(map(str, class_names)) if class_names is not None else tuple(str(i) for i in range(y.shape[1]))
    made = []
    for split, part in (("training", y), ("test", y_test)):
        if part.shape[1] != len(names):
            raise DataError(
                f"{name}: the {split} targets have shape {part.shape}, expected [examples, {len(names)}]: a 0 or a 1 for "
                f"each label ({', '.join(names[:8])})"
            )
        unknown = _unknown(part)
        wrong = np.argwhere((part != 0) & (part != 1) & ~unknown)
        if wrong.size:
            place = tuple(int(i) for i in wrong[0])
            raise DataError(
                f"{name}: targets with two dims are labels, each 0 or 1, but the {split} target at {place} is "
                f"{part[place]}; give 0 and 1, or NaN for a label that is unknown; one target for each input; or, for several "
                f"real numbers, floats without class_names (kind='number')"
            )
        made.append(without_unknown(part))
    return Targets("labels", made[0], made[1], names)


def without_unknown(labels: np.ndarray) -> np.ndarray:
    """Labels of 0, 1 and NaN as uint8, or as int8 with -1 for unknown if there are any."""
    unknown = _unknown(labels)
    if not unknown.any():
        return labels.astype(np.uint8)
    return np.where(unknown, UNKNOWN_LABEL, np.nan_to_num(labels)).astype(np.int8)


def natural_order(word: str) -> tuple[int, float, str]:
    """A sorting key: numbers first, by value ("2" before "10"), then words; the same in every process."""
    return (0, float(word), word) if _NUMBER.fullmatch(word) else (1, 0.0, word)
