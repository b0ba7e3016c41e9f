"""The loss along one or two directions through a point (Goodfellow et al. 2015, Li et al. 2018)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.diagnose.curvature import Loss
from jaxnets.diagnose.trees import plus, random_like


def filter_direction(params: Any, *, seed: int = 0) -> Any:
    """A random direction in which each filter has the norm of that filter in `params` (Li et al. 2018, section 4).

    A filter is what leads to one unit: a column of a kernel `[N, F]`, the taps `[H, W, C]` of one channel of a convolution. So
    slices of networks of different scale can be compared. Biases and scales of norms, which have one dim, do not move.
    """

    def of(drawn: Array, leaf: Array) -> Array:
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        over = tuple(range(leaf.ndim - 1))
        norms = [jnp.sqrt(jnp.square(array).sum(axis=over, keepdims=True)) for array in (leaf, drawn)]
        return drawn * (norms[0] / norms[1])

    return jax.tree.map(of, random_like(params, jax.random.key(seed), jax.random.normal), params)


def loss_slice(loss: Loss, params: Any, directions: Sequence[Any], at: Sequence[float] | np.ndarray) -> np.ndarray:
    """The loss at `params + sum_i a_i direction_i`: `[A]` for one direction, `[A, A]` for two, where `A` places are given.

    The first index belongs to the first direction.

    Args:
        loss: parameters to a scalar.
        params: a tree of real arrays; may be sharded.
        directions: one or two trees like `params`, such as those of `filter_direction`.
        at: the values of each `a_i`.
    """
    if len(directions) not in (1, 2):
        raise UsageError(f"a slice has one or two directions, got {len(directions)}")
    grid = np.stack(np.meshgrid(*[np.asarray(at, float)] * len(directions), indexing="ij"), axis=-1)

    @jax.jit
    def one(params: Any, directions: Sequence[Any], shares: Array) -> Array:
        for number, direction in enumerate(directions):
            params = plus(params, direction, shares[number])
        return loss(params)

    dtype = jnp.result_type(*jax.tree.leaves(params))
    points = [jnp.asarray(shares, dtype) for shares in grid.reshape(-1, len(directions))]
    return np.asarray([float(one(params, list(directions), shares)) for shares in points]).reshape(grid.shape[:-1])
