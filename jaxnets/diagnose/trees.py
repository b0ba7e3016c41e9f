"""Trees of arrays as vectors: random ones, inner products, lengths. They keep the sharding of their inputs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec


def random_like(like: Any, key: Array, draw: Callable[..., Array]) -> Any:
    """A tree of random numbers, `draw(key, shape)` for each leaf, with the dtypes of `like`."""
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [draw(k, leaf.shape).astype(leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def inner(a: Any, b: Any) -> Array:
    """The inner product of two trees."""
    return jnp.stack([(x * y).sum() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]).sum()


def length(a: Any) -> Array:
    """The Euclidean norm of a tree."""
    return jnp.sqrt(inner(a, a))


def scaled(a: Any, factor: Any) -> Any:
    """`factor * a`."""
    return jax.tree.map(lambda x: x * factor, a)


def plus(a: Any, b: Any, factor: Any = 1.0) -> Any:
    """`a + factor * b`."""
    return jax.tree.map(lambda x, y: x + factor * y, a, b)


def rows_of_zeros(like: Any, count: int) -> Any:
    """Room for `count` trees, leaves `[count, ...]` of zeros, each split over devices as the leaf of `like` is."""

    def of(leaf: Array) -> Array:
        zeros = jnp.zeros((count, *leaf.shape), leaf.dtype)
        placed = getattr(leaf, "sharding", None)
        if isinstance(placed, NamedSharding):
            return jax.device_put(zeros, NamedSharding(placed.mesh, PartitionSpec(None, *placed.spec)))
        return zeros

    return jax.tree.map(of, like)


def size(a: Any) -> int:
    """The number of elements of a tree."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(a))
