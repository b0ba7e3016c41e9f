"""Attention in dtypes that the back end supports, and its weights for a report."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.wide import wide
from jaxnets.ops.beyond_promise import compiled_for, current_trace
from jaxnets.ops.forward_mode import in_forward_mode

# The list that takes the weights of each call, and the trace that it belongs to, inside `attention_weights`; None: outside.
_SEEN: ContextVar[tuple[list[Array], Any] | None] = ContextVar("attention weights", default=None)


def dot_product_attention(query: Array, key: Array, value: Array, **options: Any) -> Array:
    """`jax.nn.dot_product_attention`: `[B, T, H, K]`, `[B, S, H, K]`, `[B, S, H, K]` to `[B, T, H, K]`, with its options.

    The CPU has no float16 product with float32 accumulation. There float16 inputs are computed in float32 and cast back. JAX
    computes logits in float32; float64 inputs are computed in float64 here, where the options are a bias and a mask.
    """
    if (seen := _wanted()) is not None:
        seen.append(_weights(query, key, **options))
    if query.dtype == jnp.float16 and compiled_for() == "cpu":
        exact = (array.astype(jnp.float32) for array in (query, key, value))
        return jax.nn.dot_product_attention(*exact, **options).astype(jnp.float16)
    if query.dtype == jnp.float64 and not set(options) - {"bias", "mask"}:
        value = jnp.repeat(value, query.shape[2] // value.shape[2], axis=2)
        return jnp.einsum("bhts,bshk->bthk", _weights(query, key, **options), value)
    return jax.nn.dot_product_attention(query, key, value, **options)


def computes_plainly() -> bool:
    """Whether attention of any kind is computed by `dot_product_attention`: for its weights, for forward mode, or for ONNX,
    whose files are simpler without loops over blocks."""
    return _wanted() is not None or in_forward_mode() or compiled_for() == "onnx"


@contextlib.contextmanager
def attention_weights() -> Iterator[list[Array]]:
    """A context with a list, to which each attention traced in it adds its weights `[B, H, T, S]`.

    They are float32 and sum to 1 over the last dim. Outside of the context nothing is computed for them. Attention that
    otherwise never has them, flash or over parts of a sequence, is computed plainly here. Calls inside a scan or a
    rematerialised block add nothing, because their values cannot leave it, and are computed as elsewhere.
    """
    seen: list[Array] = []
    token = _SEEN.set((seen, current_trace()))
    try:
        yield seen
    finally:
        _SEEN.reset(token)


def _wanted() -> list[Array] | None:
    """The list that takes the weights of attention in the trace in progress, if there is one."""
    seen = _SEEN.get()
    return seen[0] if seen is not None and seen[1] == current_trace() else None


def _weights(query: Array, key: Array, bias: Array | None = None, mask: Array | None = None) -> Array:
    """The softmax of attention; several heads of the query may share one of the key."""
    key = jnp.repeat(key, query.shape[2] // key.shape[2], axis=2)
    logits = jnp.einsum("bthk,bshk->bhts", wide(query), wide(key))
    logits = logits / query.shape[-1] ** 0.5 + (0.0 if bias is None else bias)
    return jax.nn.softmax(logits if mask is None else jnp.where(mask, logits, jnp.finfo(jnp.float32).min))
