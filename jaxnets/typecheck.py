"""Check a value against a type annotation, for the few kinds of annotation that configurations use."""

import types
import typing
from typing import Any, Literal


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says, for the annotations of configurations; True where it cannot tell."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in args
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(fits(item, args[0]) for item in value)
        return len(value) == len(args) and all(map(fits, value, args))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    # Any other class, a task's or a model's base, say. (Protocols and stand-ins are not classes to ask about.)
    if isinstance(hint, type) and not getattr(hint, "_is_protocol", False):
        return isinstance(value, hint)
    return True
