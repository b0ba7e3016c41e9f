"""The global norm of a tree of arrays, without overflow or underflow of squares in float32."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.ops.beyond_promise import compiled_for

# Squares of numbers above 1.8e19 overflow float32; squares of numbers below 1e-19 lose digits or underflow.
LEAST = 1e-15


def global_norm(tree: Any) -> tuple[Array, Array]:
    """The global norm of a tree, float32, and whether each leaf is finite, `[leaves]` bool."""
    leaves = jax.tree.leaves(tree)
    norm = jnp.sqrt(jnp.stack([jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in leaves]).sum())
    usable = jnp.isfinite(norm) & (norm > LEAST)

    def plain(leaves: list[Array]) -> tuple[Array, Array]:
        return norm, jnp.ones(len(leaves), bool)

    # A branch is free on the CPU. An accelerator would wait for the host to choose it, so it computes both.
    if compiled_for() == "cpu":
        return jax.lax.cond(usable, plain, _extreme, leaves)
    (simple, all_finite), (careful, finite) = plain(leaves), _extreme(leaves)
    return jnp.where(usable, simple, careful), jnp.where(usable, all_finite, finite)


def _extreme(leaves: list[Array]) -> tuple[Array, Array]:
    """The same as `global_norm`, with all numbers divided by the largest before they are squared."""
    largest = jnp.stack([jnp.abs(leaf.astype(jnp.float32)).max() for leaf in leaves])
    most = largest.max()
    unit = jnp.where(jnp.isfinite(most) & (most > 0), most, 1.0)
    squares = jnp.stack([jnp.sum(jnp.square(leaf.astype(jnp.float32) / unit)) for leaf in leaves])
    return unit * jnp.sqrt(squares.sum()), jnp.isfinite(largest)
