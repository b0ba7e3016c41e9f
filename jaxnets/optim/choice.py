"""Optimizers, schedules and averages by name, for command lines: `--optimizer lion`, `--average swa`."""

import dataclasses
import re
from typing import Any

from jaxnets import optim
from jaxnets.core.errors import UsageError, did_you_mean
from jaxnets.optim.averaging import Average
from jaxnets.optim.given import NAMES, Named
from jaxnets.optim.optimizers import Optimizer
from jaxnets.optim.schedules import Schedule

# Optimizers that cannot be chosen by a name alone: they need rules or transformations, or train nothing.
NOT_BY_NAME = ("ByPath", "Frozen", "Named", "Optax", "Optimizer", "Schedule", "Average")


def is_chosen_by_name(value: Any) -> bool:
    """Whether another value for this one can be chosen by name."""
    return isinstance(value, Optimizer | Schedule | Average)


def chosen(name: str, present: Any) -> Any:
    """The optimizer, schedule or average of a name, with its defaults; `present` is the one that it replaces.

    Upper case and signs between words make no difference: "wsd", "schedule-free". An optimizer that wraps another one (SAM,
    Lookahead, ...) wraps the present one.

    Raises:
        UsageError: there is none of this name.
    """
    base = next(cls for cls in (Optimizer, Schedule, Average) if isinstance(present, cls))
    classes = {_plain(item): getattr(optim, item) for item in optim.__all__ if item not in NOT_BY_NAME}
    found: dict[str, Any] = {
        key: cls for key, cls in classes.items() if isinstance(cls, type) and issubclass(cls, base)
    }
    cls = found.get(_plain(name))
    if cls is not None:
        around = any(field.name == "optimizer" for field in dataclasses.fields(cls))
        return cls(optimizer=present) if around else cls()
    if base is Optimizer and _plain(name) in NAMES:
        return Named(_plain(name))
    known = [
        *(c.__name__ for c in found.values()),
        *(name for name in NAMES if base is Optimizer and name not in found),
    ]
    raise UsageError(f"there is no {base.__name__.lower()} {name!r}. {did_you_mean(name, known)}")


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()
