"""Training, test and validation splits of arrays that the user gives."""

from typing import Any

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.dataset import Arrays
from jaxnets.data.flavours import plain_array, plain_numbers
from jaxnets.data.large import select
from jaxnets.data.read_arrays import check_names, feature_names, read_split
from jaxnets.data.rows import split_rows


def splits(
    name: str,
    given: tuple[Any, Any, Any],
    test: Any,
    validation: Any,
    *,
    names: Any,
    kind: str,
    holdout: float,
    by: str,
    groups: Any,
    seed: int,
) -> tuple[Arrays, Arrays, Arrays | None]:
    """Training, test and (where wanted) validation arrays."""
    train = read_split(name, "training", *given, names=names, kind=kind)
    group = _groups(name, groups, given[1])
    if group is not None and len(group) != len(train["targets"]):
        group = group[
            np.flatnonzero(plain_numbers(f"{name}: weights", given[2]))
        ]  # examples with weight 0 were dropped
    if test is None:
        train, held, group = _hold_out(name, train, "holdout", holdout, by, group, seed)
    else:
        held = _read_held(name, "test", test, given[0], train, names, kind)
    if validation is None:
        return train, held, None
    if isinstance(validation, int | float):
        train, chosen_by, _ = _hold_out(name, train, "validation", validation, by, group, seed + 1)
        return train, held, chosen_by
    return train, held, _read_held(name, "validation", validation, given[0], train, names, kind)


def _read_held(name: str, what: str, given: Any, inputs: Any, train: Arrays, names: Any, kind: str) -> Arrays:
    """A test or validation split that is given as arrays."""
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise DataError(
            f"{name}: {what} is (inputs, targets) or (inputs, targets, weights), got {type(given).__name__}"
        )
    held = read_split(f"{name}, {what}", what, *given, names=names, kind=kind)
    for key in train.keys() - {"targets", "weights"}:
        if key not in held or held[key].shape[1:] != train[key].shape[1:]:
            shape = f"have shape {held[key].shape[1:]} each" if key in held else "are not there"
            raise DataError(f"{name}: {what} {key} {shape}, training {key} {train[key].shape[1:]}")
    check_names(name, what, feature_names(inputs), feature_names(given[0]))
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
        kept, held = holdout_rows(name, rows, share, seed)
    else:
        kept, held = split_rows(arrays["targets"], share, by, seed, groups=groups, what=f"{name}: {what}={share}")
    return (
        {key: select(array, kept) for key, array in arrays.items()},
        {key: select(array, held) for key, array in arrays.items()},
        None if groups is None else groups[kept],
    )


def holdout_rows(name: str, rows: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of training and test, both in a random order, as older runs on arrays have them."""
    count = round(rows * share) if 0 < share < 1 else 0
    if not 0 < count < rows:
        raise DataError(
            f"{name}: holdout={share} of {rows} examples leaves an empty split; give more "
            f"examples, another share in (0, 1), or your own test split"
        )
    order = np.random.default_rng(seed).permutation(rows)
    return order[count:], order[:count]
