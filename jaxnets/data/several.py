"""Models with several inputs: arrays in a dict, by the names of the call's arguments, or in a tuple, by position.

In a split the first array is called `inputs`, the others `inputs/NAME`, so that no name of an argument (`mask`, `lengths`) is
taken for one of the data set's own. Each has its own preparation. A batch holds them as they were given: `batch["inputs"]` is
a dict or a tuple.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.prepare import AsGiven, Standardize, TokenIds


@dataclasses.dataclass(frozen=True)
class Input:
    """One of several inputs."""

    argument: str
    """Its name in the dict; "" in a tuple."""
    array: str
    """The name of its array in a split."""
    prepare: Standardize | TokenIds = Standardize()
    """Turns its raw numbers into those that the model gets."""


def layout(name: str, inputs: Any, targets: Any) -> tuple[tuple[str, str], ...]:
    """Argument and array name of each of several inputs; () if `inputs` are one array.

    Args:
        name: name of the data, for messages.
        inputs: a dict, or a tuple or list of arrays (or frames, tensors) that are each as long as the targets. One that is
            itself as long as the targets holds the rows of one array.
        targets: the targets, which determine the length.

    Raises:
        DataError: a dict that is empty, nested or has keys that are not text.
    """
    if isinstance(inputs, Mapping):
        keys = list(inputs)
        nested = [key for key in keys if isinstance(inputs[key], Mapping)]
        if not keys or nested or not all(isinstance(key, str) and key for key in keys):
            raise DataError(
                f"{name}: inputs as a dict are arrays by the names of the arguments of the model's call, got "
                f"{f'a dict at {nested[0]!r}' if nested else keys or 'an empty one'}; give one level of names and arrays"
            )
        return tuple((key, "inputs" if place == 0 else f"inputs/{key}") for place, key in enumerate(keys))
    if not isinstance(inputs, tuple | list) or not len(inputs):
        return ()
    count = _rows(targets) if _rows(targets) is not None or not hasattr(targets, "__len__") else len(targets)
    if len(inputs) != count and all(_rows(part) is not None and _rows(part) == count for part in inputs):
        return tuple(("", "inputs" if place == 0 else f"inputs/{place}") for place in range(len(inputs)))
    return ()


def _rows(array: Any) -> int | None:
    """The length of something with a shape."""
    shape: Any = getattr(array, "shape", ())
    return int(shape[0]) if len(shape) else None


def by_array(given: Any, names: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Several inputs by the names of their arrays; raises `DataError` unless they have the form of `names`, see `layout`."""
    arguments, arrays = [argument for argument, _ in names], [array for _, array in names]
    known = arguments if arguments[0] else arrays
    if isinstance(given, Mapping):
        for keys in (known, arrays):
            if set(given) == set(keys):
                return {array: given[key] for key, array in zip(keys, arrays, strict=True)}
        found = f"a dict of {', '.join(map(str, given)) or 'nothing'}"
    else:
        if not arguments[0] and isinstance(given, tuple | list) and len(given) == len(names):
            return dict(zip(arrays, given, strict=True))
        size = f" of {len(given)}" if isinstance(given, tuple | list) else ""
        found = f"{type(given).__name__}{size}"
    form = f"a dict of {', '.join(arguments)}" if arguments[0] else f"a tuple of {len(names)} arrays"
    raise DataError(f"the training inputs are {form}, got {found}; give the same form here")


def with_rules(
    name: str,
    names: Sequence[tuple[str, str]],
    arrays: Mapping[str, np.ndarray],
    fit: Callable[[str, Any], Standardize],
) -> tuple[Input, ...]:
    """The inputs of a layout with their preparations.

    Real numbers and images of bytes (`[N, H, W, C]` uint8) get the scale of `fit(name, array)`; other whole numbers stay
    whole, and truth values stay truth values.
    """
    made = []
    for argument, array in names:
        x = arrays[array]
        prepare: Standardize | TokenIds = AsGiven()
        if x.dtype.kind == "f" or (x.dtype == np.uint8 and x.ndim == 4):
            prepare = fit(name, x if x.ndim > 1 else np.asarray(x)[:, None])
        elif x.dtype.kind != "b" and not -(2**31) <= x.min() <= x.max() < 2**31:
            raise DataError(
                f"{name}: {argument or array} holds whole numbers from {x.min()} to {x.max()}, which int32 cannot hold; "
                f"renumber them, or give floats"
            )
        made.append(Input(argument, array, prepare))
    return tuple(made)


def arranged(
    several: Sequence[Input], batch: Mapping[str, Any], prepared: Callable[[Input, Any], Any]
) -> dict[str, Any]:
    """A batch whose `inputs` are the dict or tuple that was given, each array after `prepared`."""
    values = [prepared(one, batch[one.array]) for one in several]
    rest = {name: array for name, array in batch.items() if name not in {one.array for one in several}}
    if not several[0].argument:
        return {**rest, "inputs": tuple(values)}
    return {**rest, "inputs": {one.argument: value for one, value in zip(several, values, strict=True)}}
