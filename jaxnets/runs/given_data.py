"""The data that a user gives to `fit`, as a `Dataset`."""

import dataclasses
from typing import Any

import flax.linen as nn
import numpy as np

from jaxnets.config.experiment import Experiment
from jaxnets.core.elsewhere import ELSEWHERE
from jaxnets.core.errors import UsageError, did_you_mean
from jaxnets.data.arrays import from_arrays
from jaxnets.data.dataset import Dataset
from jaxnets.data.indexed import from_source, is_source
from jaxnets.data.validation import Validation
from jaxnets.tasks.base import Task


def given_data(model: Any, data: Any, test: Any, validation: Any, options: dict[str, Any], loss: Any) -> Dataset:
    """The data as a `Dataset`; raises `UsageError` for unsuitable arguments."""
    kind: Any
    if isinstance(data, Dataset):
        if test is not None:
            raise UsageError("test goes with arrays; a Dataset has its own test split")
        _check_share(validation)
        dataset = data
    elif isinstance(data, tuple | list) and len(data) in (2, 3):
        kind = model.given_targets if isinstance(model, Task) else _kind(data[1], loss)
        weights = data[2] if len(data) == 3 else None
        split: Any = "random"
        if isinstance(validation, Validation):
            validation, split = validation.share, "random" if validation.by == "auto" else validation.by
        if isinstance(validation, int | float) and validation == 0:
            validation, options["validation"] = None, Validation(0.0)
        dataset = from_arrays(
            data[0], data[1], weights=weights, test=test, kind=kind, validation=validation, split=split
        )
    elif is_source(data):
        _check_share(validation)
        kind = model.given_targets if isinstance(model, Task) else "auto"
        dataset = from_source(data, test=test, kind=kind)
    else:
        raise UsageError(
            f"data is a Dataset, arrays, (inputs, targets) or (inputs, targets, weights), or an object with __len__ and "
            f"__getitem__ (see data.from_source), got {type(data).__name__}"
        )
    if not isinstance(model, nn.Module | Task):
        hint = "; add parentheses to make one" if isinstance(model, type) else ""
        raise UsageError(
            f"model is a Linen module, a pair of functions (init, apply) or a task, got {model!r}{hint}. Modules of other "
            f"libraries come in by interop.from_equinox and interop.from_nnx"
        )
    unknown = sorted(set(options) - {field.name for field in dataclasses.fields(Experiment)})
    if unknown and unknown[0] in ELSEWHERE:
        raise UsageError(f"fit has no argument {unknown[0]!r}, which other libraries have; {ELSEWHERE[unknown[0]]}")
    if unknown:
        known = (field.name for field in dataclasses.fields(Experiment))
        raise UsageError(f"fit has no argument {unknown[0]!r}. {did_you_mean(unknown[0], known)}")
    return dataset


def _check_share(validation: Any) -> None:
    if isinstance(validation, tuple | list):
        raise UsageError(
            "validation is a share where data are not two arrays; a Dataset takes arrays by dataclasses.replace(dataset, "
            "validation={'inputs': ..., 'targets': ...})"
        )


def _kind(targets: Any, loss: Any) -> str:
    """The kind of the targets of a bare model: "any" if the loss is given and they fit no built-in task."""
    shape: Any = getattr(targets, "shape", None)
    shape = np.shape(targets) if shape is None and loss is not None and isinstance(targets, list | tuple) else shape
    if loss is None or shape is None or len(shape) < 2:
        return "auto"
    if len(shape) > 2:
        return "any"
    array = np.asarray(targets)
    return "any" if array.dtype.kind in "iu" and shape[1] > 1 and not np.isin(array, (0, 1)).all() else "auto"
