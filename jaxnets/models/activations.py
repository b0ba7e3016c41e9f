"""Activations that jax has under no name, and the names by which a model chooses one.

The potential `x` of a unit is its weighted sum with the bias. It has any shape, and so has the output.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_jvp
def step(x: Array) -> Array:
    """The unit step: 1 for `x >= 0`, 0 below; the same dtype. A potential of exactly 0 fires.

    Its derivative is 0 wherever it exists, so nothing before it would be trained. The gradient here is straight-through:
    that of the identity for `|x| <= 1`, 0 elsewhere (Bengio et al. 2013; Hubara et al. 2016, eq. 4).
    """
    return jnp.where(x >= 0, 1, 0).astype(x.dtype)


@step.defjvp
def _step_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    return step(x), jnp.where(jnp.abs(x) <= 1, tangent, 0)


def clip(x: Array) -> Array:
    """The saturated-linear function: `x` between 0 and 1, else the nearer of the two. Its gradient at 0 and at 1 is 0."""
    return jnp.where(x <= 0, 0, jnp.where(x >= 1, 1, x)).astype(x.dtype)


ACTIVATIONS: dict[str, Any] = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "leaky_relu": nn.leaky_relu,
    "step": step,
    "clip": clip,
}
