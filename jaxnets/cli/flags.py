"""Flags of a command as a dataclass."""

from collections.abc import Sequence
from typing import Any

from jaxnets.core.errors import UsageError


def parse(kind: Any, arguments: Sequence[str], prog: str) -> Any:
    """Flags as a dataclass, with tyro's help and messages."""
    import tyro

    try:
        return tyro.cli(kind, args=list(arguments), prog=prog)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
