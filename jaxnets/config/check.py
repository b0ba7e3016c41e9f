"""Check the fields of a configuration against their annotations."""

import dataclasses
from typing import Any

from jaxnets.core.errors import UsageError
from jaxnets.core.typecheck import annotations, fits, in_words

# Fields that every Linen module has beside its own.
LINEN_FIELDS = ("parent", "name")


def check_types(value: Any) -> None:
    """Raise `UsageError` unless the fields of a dataclass, and of those within it, match their annotations."""
    names = [field.name for field in dataclasses.fields(value) if field.init and not is_linens_own(value, field.name)]
    values = {name: getattr(value, name) for name in names}
    check_values(type(value), values)
    for item in values.values():
        for part in item if isinstance(item, tuple | list) else (item,):
            # Other packages annotate in their own ways: a `dtype: jnp.dtype` of theirs holds `jnp.float32`, which is a class.
            if dataclasses.is_dataclass(part) and not isinstance(part, type) and not is_foreign(type(part)):
                check_types(part)


def check_values(cls: type, values: dict[str, Any]) -> None:
    """Raise `UsageError` unless the values fit the annotations of a dataclass; `values` maps field names to values."""
    for name, hint in annotations(cls).items():
        if name in values and not fits(values[name], hint):
            item = values[name]
            raise UsageError(f"{cls.__name__}.{name} is {in_words(hint)}, got {item!r} ({type(item).__name__})")


def is_foreign(cls: type) -> bool:
    """Whether a class is neither of this package nor a task, optimizer or source made from one of its classes."""
    return not any(base.__module__.split(".")[0] == "jaxnets" for base in cls.__mro__)


def is_linens_own(value: Any, field: str) -> bool:
    """Whether a field of a Linen module is one that Flax adds."""
    return field in LINEN_FIELDS and hasattr(value, "apply")
