"""A gated linear recurrence, `h_t = a_t h_(t-1) + b_t`, in log(T) steps instead of T.

Two steps in a row are one step of the same kind: after `(a, b)` and then `(a', b')` the state is `a' a h + (a' b + b')`. This
is associative, so pairs can be joined in a tree (Blelloch 1990; Martin and Cundy 2018 for networks). The gradient is the same
recurrence backwards, with the gates one step later, so only gates and states are saved for it. Forward-mode differentiation
(`jax.jvp`) raises; that of `forward_mode.py` works.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.ops.beyond_promise import compiled_for
from jaxnets.ops.forward_mode import in_forward_mode


def linear_recurrence(
    a: Array, b: Array, start: Array | None = None, *, method: Literal["auto", "associative", "sequential"] = "auto"
) -> Array:
    """States `h_t = a_t h_(t-1) + b_t` for every step.

    Args:
        a: gates, `[B, T, ...]`.
        b: inputs, with the shape of `a`.
        start: the state before the first step, `[B, ...]`; None: zeros.
        method: associative joins steps in a tree (`lax.associative_scan`), sequential is `lax.scan`; results are equal up to
            rounding. auto: sequential on the CPU, where a tree gains nothing, and for ONNX, associative elsewhere.

    Returns:
        `[B, T, ...]`, in the dtype of `b`.
    """
    if a.shape != b.shape or a.ndim < 2 or not a.shape[1]:
        raise ValueError(
            f"gates and inputs are [batch, time, ...] of one shape with at least one step, got {a.shape} and {b.shape}"
        )
    if start is not None:
        b = b.at[:, 0].add((a[:, 0] * start).astype(b.dtype))
    walk = method == "sequential" or (method == "auto" and compiled_for() in ("cpu", "onnx"))
    if in_forward_mode():
        return _states(a.astype(b.dtype), b, walk=walk)
    return (_walked if walk else _joined)(a.astype(b.dtype), b)


def plain_linear_recurrence(a: Array, b: Array, start: Array | None = None) -> Array:
    """Reference for tests: the definition, one step after another, differentiated by JAX."""
    first = jnp.zeros_like(b[:, 0]) if start is None else start

    def step(h: Array, gate_and_input: tuple[Array, Array]) -> tuple[Array, Array]:
        gate, new = gate_and_input
        h = gate * h + new
        return h, h

    return jax.lax.scan(step, first, (a.swapaxes(0, 1), b.swapaxes(0, 1)))[1].swapaxes(0, 1)


def _join(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two steps, or two runs of steps, as one."""
    (a, b), (a_next, b_next) = first, second
    return a_next * a, a_next * b + b_next


def _states(a: Array, b: Array, *, walk: bool, reverse: bool = False) -> Array:
    if not walk:
        return jax.lax.associative_scan(_join, (a, b), reverse=reverse, axis=1)[1]

    def step(h: Array, gate_and_input: tuple[Array, Array]) -> tuple[Array, Array]:
        h = gate_and_input[0] * h + gate_and_input[1]
        return h, h

    over = (a.swapaxes(0, 1), b.swapaxes(0, 1))
    return jax.lax.scan(step, jnp.zeros_like(b[:, 0]), over, reverse=reverse)[1].swapaxes(0, 1)


def _gradients(a: Array, states: Array, g: Array, *, walk: bool) -> tuple[Array, Array]:
    """Gradients for gates and inputs. State t gets its own gradient plus gate t + 1 times that of state t + 1."""
    gate_after = jnp.concatenate([a[:, 1:], jnp.zeros_like(a[:, :1])], axis=1)
    to_input = _states(gate_after, g, walk=walk, reverse=True)
    before = jnp.concatenate([jnp.zeros_like(states[:, :1]), states[:, :-1]], axis=1)
    return to_input * before, to_input


@jax.custom_vjp
def _joined(a: Array, b: Array) -> Array:
    return _states(a, b, walk=False)


@jax.custom_vjp
def _walked(a: Array, b: Array) -> Array:
    return _states(a, b, walk=True)


def _join_forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    states = _states(a, b, walk=False)
    return states, (a, states)


def _walk_forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    states = _states(a, b, walk=True)
    return states, (a, states)


def _join_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    return _gradients(*saved, g, walk=False)


def _walk_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    return _gradients(*saved, g, walk=True)


_joined.defvjp(_join_forward, _join_backward)
_walked.defvjp(_walk_forward, _walk_backward)
