"""Check values against type annotations, for the few kinds of annotation that configurations and models use."""

import dataclasses
import functools
import numbers
import types
import typing
from typing import Any, Literal


def fits(value: Any, hint: Any) -> bool:
    """Whether a value matches an annotation, for the annotations of configurations; True if this cannot be checked."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in args
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(fits(item, args[0]) for item in value)
        return len(value) == len(args) and all(map(fits, value, args))
    if hint is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    # Any other class, for example the base class of tasks or models. (Protocols and stand-ins cannot be checked.)
    if isinstance(hint, type) and hint is not Any and not getattr(hint, "_is_protocol", False):
        return isinstance(value, hint)
    return True


@functools.cache
def annotations(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields by name; empty if they cannot be read (for example, for a class in a script)."""
    try:
        hints = typing.get_type_hints(cls)
    except Exception:  # names that exist only where the class is defined
        return {}
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.name in hints}


def in_words(hint: Any) -> str:
    """An annotation in the words of an error message."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(map(repr, args))
    if origin in (typing.Union, types.UnionType):
        return " | ".join("None" if arg is types.NoneType else in_words(arg) for arg in args)
    return str(hint).removeprefix("<class '").removesuffix("'>").replace("typing.", "")


def check_choices(value: Any) -> None:
    """Raise `ValueError` if a field with a fixed set of words (`Literal`) holds another value."""
    cls: Any = type(value)
    for name, hint in _choices(cls).items():
        if not fits(getattr(value, name), hint):
            raise ValueError(f"{cls.__name__}.{name} is {in_words(hint)}, got {getattr(value, name)!r}")


@functools.cache
def _choices(cls: type) -> dict[str, Any]:
    return {name: hint for name, hint in annotations(cls).items() if "Literal[" in str(hint)}
