"""The norm of a tree of arrays, also where the squares of its numbers are beyond float32."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.ops.beyond_promise import compiled_for

# Squares of numbers above 1.8e19 overflow float32, those of numbers below 1e-19 lose digits or vanish.
LEAST = 1e-15


def global_norm(tree: Any) -> tuple[Array, Array]:
    """The norm of all numbers of a tree together, float32, and whether those of each leaf are finite, `[leaves]` bool."""
    leaves = jax.tree.leaves(tree)
    norm = jnp.sqrt(jnp.stack([jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in leaves]).sum())
    usable = jnp.isfinite(norm) & (norm > LEAST)

    def plain(leaves: list[Array]) -> tuple[Array, Array]:
        return norm, jnp.ones(len(leaves), bool)

    # A branch costs the CPU nothing; an accelerator would wait for the host to learn which branch to take.
    if compiled_for() == "cpu":
        return jax.lax.cond(usable, plain, _extreme, leaves)
    (simple, all_finite), (careful, finite) = plain(leaves), _extreme(leaves)
    return jnp.where(usable, simple, careful), jnp.where(usable, all_finite, finite)


def _extreme(leaves: list[Array]) -> tuple[Array, Array]:
    """As `global_norm`, with every number divided by the largest before it is squared."""
    largest = jnp.stack([jnp.abs(leaf.astype(jnp.float32)).max() for leaf in leaves])
    most = largest.max()
    unit = jnp.where(jnp.isfinite(most) & (most > 0), most, 1.0)
    squares = jnp.stack([jnp.sum(jnp.square(leaf.astype(jnp.float32) / unit)) for leaf in leaves])
    return unit * jnp.sqrt(squares.sum()), jnp.isfinite(largest)
