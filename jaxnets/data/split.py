"""One split of a data set: arrays of equal length, each checked by its role."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.flavours import plain_numbers
from jaxnets.data.large import LazyArray, as_lazy, check_lazy, select
from jaxnets.data.targets import check_finite, without_unknown

# The two names of example weights.
WEIGHTS = ("weights", "mask")


def plain_split(what: str, arrays: Mapping[str, Any], kind: str) -> dict[str, np.ndarray]:
    """The arrays of a split as plain numbers; arrays that already are plain are not copied.

    Args:
        what: the split, for messages.
        arrays: arrays by name, at least `inputs` and `targets`.
        kind: kind of the targets (see `Card`); "" for real numbers.

    Raises:
        DataError: an array is missing, empty, of another length, not finite, or invalid for its name.
    """
    for name in ("inputs", "targets"):
        if name not in arrays:
            raise DataError(f"{what} split has no array {name!r}; it holds {', '.join(map(str, arrays)) or 'nothing'}")
    made: dict[str, Any] = {name: _plain(f"{what} {name}", name, array) for name, array in arrays.items()}
    count = len(made["targets"]) if made["targets"].ndim else 0
    if not count:
        raise DataError(f"{what} split is empty; give it at least one example")
    for name, array in made.items():
        if not array.ndim or len(array) != count:
            raise DataError(f"{what} {name} have shape {array.shape} for {count} targets; give one for each example")
        if isinstance(array, LazyArray):
            check_lazy(f"{what} {name}", array)
        elif name != "targets" or kind != "labels":
            check_finite(f"{what} {name}", array)
    if not isinstance(made["targets"], LazyArray):
        made["targets"] = _targets(f"{what} targets", made["targets"], kind)
    for name in WEIGHTS:
        if name in made:
            check_weights(f"{what} {name}", made[name], count)
    if "lengths" in made:
        _check_lengths(f"{what} lengths", made["lengths"], made["inputs"])
    return counted(made)


def _plain(what: str, name: str, values: Any) -> Any:
    """An array of a split as plain numbers; a large one in a file stays there, unless it holds a few numbers per example."""
    if isinstance(values, LazyArray):
        return values
    few = name in ("targets", "lengths", *WEIGHTS) and len(getattr(values, "shape", ())) < 3
    values = values if few else as_lazy(what, values)
    return values if isinstance(values, LazyArray) else plain_numbers(what, values)


def counted(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drop the examples with weight 0, so that they affect no scale, no batch statistics and no metric."""
    for name in WEIGHTS:
        if name in arrays and not arrays[name].all():
            kept = np.flatnonzero(arrays[name])
            arrays = {key: select(array, kept) for key, array in arrays.items()}
    return arrays


def _targets(what: str, targets: np.ndarray, kind: str) -> np.ndarray:
    """Class numbers and tokens as integers, labels as 0, 1 and -1; real numbers unchanged."""
    if kind == "labels" and targets.dtype.kind == "f" and np.isnan(targets).any():
        return without_unknown(targets)
    if kind not in ("class", "token", "sequence") or targets.dtype.kind in "iu":
        return targets
    whole = targets == np.rint(targets) if targets.dtype.kind == "f" else np.ones(targets.shape, bool)
    if not whole.all():
        place = tuple(int(i) for i in np.argwhere(~whole)[0])
        raise DataError(
            f"{what} are class numbers, but {targets[place]} at {place} is not a whole number; give integers"
        )
    return targets.astype(np.int32)


def check_weights(what: str, weights: np.ndarray, count: int) -> np.ndarray:
    """Return the weights `[N]`; raise `DataError` unless there is one per example, all at least 0 and one above 0."""
    check_finite(what, weights)
    if weights.shape != (count,) or (weights < 0).any():
        low = float(weights.min(initial=0))
        raise DataError(
            f"{what} have shape {weights.shape} and a minimum of {low:g}; give one number for each of {count} "
            f"examples, none below 0"
        )
    if not weights.any():
        raise DataError(f"{what} are all 0, so no example counts; give at least one a weight above 0")
    return weights


def _check_lengths(what: str, lengths: np.ndarray, inputs: np.ndarray) -> None:
    longest = inputs.shape[1] if inputs.ndim > 1 else 0
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 1).any() or (lengths > longest).any():
        raise DataError(
            f"{what} are {lengths.dtype}{list(lengths.shape)} from {lengths.min(initial=0)} to {lengths.max(initial=0)}; give "
            f"one whole number for each example, from 1 to {longest}, the number of steps in the inputs"
        )
