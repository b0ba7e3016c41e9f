"""Derivatives in forward mode (`jax.jvp`), also through operations whose gradient is a function of ours (`jax.custom_vjp`).

Those are flash attention, attention over parts of a sequence, and the linear recurrence. JAX cannot differentiate them
forwards, so here they are computed in a plain form with the same values, which may take more memory. Their gradients are
differentiated forwards as they are, but for kernels of an accelerator.
"""

from collections.abc import Callable
from typing import Any

import jax

# "plain", "no kernels", or "" outside. It is a part of the key of JAX's caches, so what was traced elsewhere is not used here.
_FORM = jax.make_user_context("")


def jvp(function: Callable[[Any], Any], point: Any, direction: Any) -> tuple[Any, Any]:
    """`jax.jvp` of a function of one tree: its value at `point`, and its derivative there in a direction.

    Args:
        function: a tree to a tree; it may call any operation of this package.
        point: a tree of real arrays.
        direction: a tree like `point`.
    """
    with _FORM("plain"):
        value, tangent = jax.jvp(function, (point,), (direction,))
    return value, tangent


def jvp_of_gradient(function: Callable[[Any], Any], point: Any, direction: Any) -> Any:
    """The derivative of the gradient of a scalar function in a direction; arguments as for `jvp`, a tree like `point`."""
    with _FORM("no kernels"):
        return jax.jvp(jax.grad(function), (point,), (direction,))[1]


def in_forward_mode() -> bool:
    """Whether JAX is to differentiate what is traced forwards, so that it has to be plain."""
    return bool(_FORM.value == "plain")


def without_kernels() -> bool:
    """Whether JAX is to differentiate a gradient of what is traced, so that it must not be a kernel."""
    return bool(_FORM.value == "no kernels")
