"""The targets of a source that is read row by row: their kind, from a sample, and how each row's are encoded."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError, UsageError
from jaxnets.data.distributions import not_distributions
from jaxnets.data.targets import UNKNOWN_LABEL, Targets, encode_targets
from jaxnets.ops.tokens import IGNORED


def names_in(source: Any, targets: str) -> tuple[str, ...] | None:
    """The names of the classes that a source itself has: `classes` as in torchvision, or the features of Hugging Face."""
    known = getattr(source, "classes", None)
    features: Any = getattr(source, "features", None)
    if known is None and hasattr(features, "get"):
        known = getattr(features.get(targets), "names", None)
    if isinstance(known, list | tuple) and known and all(isinstance(word, str) for word in known):
        return tuple(known)
    return None


def read_kind(
    name: str, y: np.ndarray, y_test: np.ndarray, class_names: Sequence[str] | int | None, kind: Any
) -> Targets:
    """The kind and the names of targets, from those of a sample of each split; raises `DataError` if they do not fit."""
    if isinstance(class_names, int):
        class_names = tuple(map(str, range(class_names)))
    if kind == "token":
        if class_names is None:
            raise UsageError(f"{name}: kind='token' needs class_names=, the tokens or their number")
        return Targets("token", y, y_test, tuple(map(str, class_names)))
    return encode_targets(name, y, y_test, class_names, kind)


def encoder_of(
    name: str, found: Targets, targets_of: tuple[tuple[int, ...], np.dtype]
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function `(targets, rows) -> targets` as a task takes them, with an error that names the first row that does not fit.

    Args:
        name: name of the data, for messages.
        found: kind and names, from the sample.
        targets_of: shape and dtype of the targets of a row.
    """
    shape, dtype = targets_of
    count = len(found.names)

    def refuse(bad: np.ndarray, targets: np.ndarray, rows: np.ndarray, what: str, remedy: str) -> None:
        wrong = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
        if wrong.size:
            value = np.ravel(targets[wrong[0]])[np.ravel(bad[wrong[0]])][0]
            raise DataError(f"{name}: {what} {value!s} of row {rows[wrong[0]]} {remedy}")

    def words(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
        flat = targets.reshape(len(targets))
        code = {word: number for number, word in enumerate(found.names)}
        refuse(
            np.array([word not in code for word in flat.tolist()], bool), flat, rows, "label",
            f"is not among the {count} classes ({', '.join(found.names[:8])}); name every class in class_names",
        )  # fmt: skip
        return np.array([code[word] for word in flat.tolist()], np.int32)

    def classes(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if shape and shape != (1,):  # one-hot
            refuse(((targets != 0) & (targets != 1)), targets, rows, "target", "is neither 0 nor 1 (one-hot classes)")
            refuse(targets.sum(axis=1) != 1, targets.sum(axis=1), rows, "the sum", "of one-hot targets is not 1")
            return targets.argmax(axis=1).astype(np.int32)
        flat = targets.reshape(len(targets))
        bad = (flat != np.rint(flat)) if dtype.kind == "f" else np.zeros(len(flat), bool)
        remedy = (
            f"is out of range: there are {count} classes, numbered from 0; give class_names=, all names or their number"
        )
        refuse(bad | (flat < 0) | (flat >= count), flat, rows, "label", remedy)
        return flat.astype(np.int32)

    def tokens(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
        bad = ((targets < 0) | (targets >= count)) & (targets != IGNORED)
        refuse(bad, targets, rows, "token", f"is outside of a vocabulary of {count} (0 to {count - 1})")
        return targets.astype(np.int32)

    def shares(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
        refuse(
            not_distributions(targets), targets.sum(axis=1), rows, "the sum", "is not 1, or a probability is below 0"
        )
        return targets.astype(np.float32)

    def labels(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
        unknown = np.isnan(targets) if dtype.kind == "f" else np.zeros(targets.shape, bool)
        refuse(~unknown & (targets != 0) & (targets != 1), targets, rows, "label", "is not 0, 1 or NaN (unknown)")
        return np.where(unknown, UNKNOWN_LABEL, np.nan_to_num(targets)).astype(np.int8)

    def numbers(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if dtype.kind == "f":
            refuse(~np.isfinite(targets), targets, rows, "target", "is not a number; remove or fill such rows")
        return targets.reshape(len(targets)) if shape == (1,) else targets

    if found.kind == "class" and dtype.kind == "U":
        return words
    return {"class": classes, "distribution": shares, "token": tokens, "labels": labels}.get(found.kind, numbers)
