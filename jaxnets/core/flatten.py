"""Nested JSON data as one level of dotted names."""

from collections.abc import Mapping
from typing import Any


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """A saved configuration (or other nested data) by dotted names.

    The class of an object ("type") is the value of its own name: `task.model: CNN`. A list of plain values is one text, a
    list of objects is numbered.
    """
    if isinstance(data, Mapping):
        flat: dict[str, Any] = {}
        for key, value in data.items():
            if key == "type" and prefix:
                flat[prefix] = value
            elif key != "type":
                flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    if isinstance(data, list | tuple):
        if any(isinstance(item, Mapping) for item in data):
            return {k: v for i, item in enumerate(data) for k, v in flatten(item, f"{prefix}.{i}").items()}
        return {prefix: " ".join(map(str, data))}
    return {prefix: data}
