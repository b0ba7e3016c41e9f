"""Reads one split of the user's arrays: plain numbers of equal length, without a copy of large ones."""

from typing import Any

import numpy as np

from jaxnets.core.errors import DataError, note
from jaxnets.core.scaling import LARGEST_EXACT
from jaxnets.data.dataset import Arrays
from jaxnets.data.flavours import plain_numbers
from jaxnets.data.large import LazyArray, as_lazy
from jaxnets.data.several import by_array
from jaxnets.data.split import check_weights, counted
from jaxnets.data.targets import check_finite, read_targets


def feature_names(inputs: Any) -> tuple[str, ...]:
    """The column names of a DataFrame; () for anything else."""
    columns = getattr(inputs, "columns", None)
    if columns is None or not hasattr(inputs, "shape") or len(inputs.shape) != 2:
        return ()
    return tuple(str(column) for column in columns)


def check_inputs(name: str, what: str, inputs: Any, *, dims: int = 2) -> np.ndarray:
    """Inputs `[N, ...]` of at least `dims` dims as plain finite numbers. Raises `DataError` for other values; notes images
    with channels first."""
    x: Any = as_lazy(f"{name}: {what} inputs", inputs)
    if not isinstance(x, LazyArray):
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


def read_split(
    name: str, what: str, inputs: Any, targets: Any, weights: Any = None, *, names: Any = (), kind: str = "auto"
) -> Arrays:
    """One split as plain arrays of equal length; `names` are the several inputs, if there are (see `layout`)."""
    read = plain_numbers if kind == "any" else read_targets
    y = read(f"{name}: the {what} targets", targets)
    if not y.ndim:
        raise DataError(f"{name}: the {what} targets are a single number; give one target for each input")
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


def check_names(name: str, what: str, train: tuple[str, ...], held: tuple[str, ...]) -> None:
    """Raise `DataError` if the columns of two frames differ, in name or order."""
    if train and held and train != held:
        raise DataError(
            f"{name}: the {what} inputs have the columns {', '.join(held[:8])}, the training inputs "
            f"{', '.join(train[:8])}; put them in the same order: {what}[list(train.columns)]"
        )
