"""Attention in dtypes that the back end supports."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.ops.beyond_promise import compiled_for


def dot_product_attention(query: Array, key: Array, value: Array, **options: Any) -> Array:
    """`jax.nn.dot_product_attention`: `[B, T, H, K]`, `[B, S, H, K]`, `[B, S, H, K]` to `[B, T, H, K]`, with its options.

    The CPU has no float16 product with float32 accumulation. There float16 inputs are computed in float32 and cast back.
    """
    if query.dtype == jnp.float16 and compiled_for() == "cpu":
        wide = (array.astype(jnp.float32) for array in (query, key, value))
        return jax.nn.dot_product_attention(*wide, **options).astype(jnp.float16)
    return jax.nn.dot_product_attention(query, key, value, **options)
