"""Targets of any kind as the tasks take them: classes, several labels, numbers."""

from collections.abc import Sequence

import numpy as np

from jaxnets.errors import DataError


def check_finite(what: str, array: np.ndarray) -> None:
    """Raise `DataError` naming the first NaN or infinity of an array, if it has one."""
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


def encode_targets(
    name: str, y: np.ndarray, y_test: np.ndarray, class_names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Training and test targets as `from_arrays` takes them: one dim makes classes or numbers, two make labels.

    Raises:
        DataError: the two differ in kind, or a value is not one of a target.
    """
    if y_test.ndim != y.ndim:
        raise DataError(f"{name}: test targets have shape {y_test.shape}, training targets {y.shape}; make them alike")
    return (encode_classes_or_numbers if y.ndim == 1 else encode_labels)(name, y, y_test, class_names)


def encode_classes_or_numbers(
    name: str, y: np.ndarray, y_test: np.ndarray, class_names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Targets as int32 labels with their names, or as float32 numbers with none."""
    kinds = {"f": "real numbers", "i": "integers", "u": "integers", "b": "integers"}
    train_kind, test_kind = (kinds.get(part.dtype.kind, "text") for part in (y, y_test))
    if train_kind != test_kind:
        raise DataError(
            f"{name}: the training targets are {train_kind}, the test targets {test_kind}; make them the same"
        )
    if y.dtype.kind == "f":
        check_finite(f"{name}: training targets", y)
        check_finite(f"{name}: test targets", y_test)
        return y.astype(np.float32), y_test.astype(np.float32), ()
    if train_kind == "text":
        found = {str(v) for v in y} | {str(v) for v in y_test}
        words = list(class_names) if class_names is not None else sorted(found, key=_natural)
        unknown = sorted(found - set(words))
        if unknown:
            raise DataError(f"{name}: label {unknown[0]!r} is not among the class names {', '.join(words)}")
        code = {word: index for index, word in enumerate(words)}
        y, y_test = (np.array([code[str(v)] for v in part], np.int32) for part in (y, y_test))
        return y, y_test, tuple(words)
    highest = int(max(y.max(initial=0), y_test.max(initial=0)))
    if class_names is None and highest >= max(len(y), 2):
        raise DataError(
            f"{name}: integer targets make classes, but they run up to {highest} for {len(y)} examples. For a regression "
            f"give them as floats; for classes number them 0, 1, 2, ..."
        )
    names = tuple(class_names) if class_names is not None else tuple(str(i) for i in range(highest + 1))
    for split, labels in (("training", y), ("test", y_test)):
        outside = (labels < 0) | (labels >= len(names))
        if outside.any():
            place = int(np.flatnonzero(outside)[0])
            raise DataError(
                f"{name}: {split} label {labels[place]} at index {place} is out of range; classes are numbered from 0"
                + (f" to {len(names) - 1}, the {len(names)} of class_names" if class_names is not None else "")
            )
    return y.astype(np.int32), y_test.astype(np.int32), names


def encode_labels(
    name: str, y: np.ndarray, y_test: np.ndarray, class_names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Several labels an example as uint8, 0 or 1, with the names of the labels."""
    names = tuple(class_names) if class_names is not None else tuple(str(i) for i in range(y.shape[1]))
    for split, part in (("training", y), ("test", y_test)):
        if part.ndim != 2 or part.shape[1] != len(names) or not names:
            raise DataError(
                f"{name}: the {split} targets have shape {part.shape}, expected [examples, {len(names)}]: a 0 or a 1 for "
                f"each label ({', '.join(names[:8])})"
            )
        wrong = np.argwhere((part != 0) & (part != 1))
        if wrong.size:
            place = tuple(int(i) for i in wrong[0])
            raise DataError(
                f"{name}: targets with two dims are labels, each 0 or 1, but the {split} target at {place} is "
                f"{part[place]}; give 0 and 1, or one target for each input"
            )
    return y.astype(np.uint8), y_test.astype(np.uint8), names


def _natural(word: str) -> tuple[int, float, str]:
    """Numbers first, in their own order ("2" before "10"), then words."""
    try:
        return (0, float(word), word)
    except ValueError:
        return (1, 0.0, word)
