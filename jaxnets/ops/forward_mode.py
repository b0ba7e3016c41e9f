"""Derivatives in forward mode (`jax.jvp`), which second derivatives are made of.

JAX has none for operations whose gradient is a function of ours (`jax.custom_vjp`): flash attention, attention over parts of a
sequence, the linear recurrence. Here they are computed in a plain form with the same values, which may take more memory.
"""

from collections.abc import Callable
from typing import Any

import jax

# Part of the key of every cache of traces, so a function that was traced elsewhere is traced again.
_PLAIN = jax.make_user_context(False)


def jvp(function: Callable[[Any], Any], point: Any, direction: Any) -> tuple[Any, Any]:
    """`jax.jvp` of a function of one tree: its value at `point`, and its derivative there in a direction.

    Args:
        function: a tree to a tree; it may call any operation of this package.
        point: a tree of real arrays.
        direction: a tree like `point`.
    """
    with _PLAIN(True):
        value, tangent = jax.jvp(function, (point,), (direction,))
    return value, tangent


def in_forward_mode() -> bool:
    """Whether `jvp` is tracing, so that operations need a form that JAX can differentiate forwards."""
    return bool(_PLAIN.value)
