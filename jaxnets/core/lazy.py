"""Rooms whose modules load at the first use of a name.

One configuration needs few of them, and checking a command line should not load all.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(package: str, files: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A module's `__getattr__` and `__dir__`: each name is read from its file at first use (PEP 562).

    Args:
        package: the module's own `__name__`.
        files: name -> the module in the package that defines it; "" for a name that is such a module itself.
    """

    def find(name: str) -> Any:
        if name not in files:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{files[name] or name}")
        return getattr(module, name) if files[name] else module

    return find, lambda: sorted(files)
