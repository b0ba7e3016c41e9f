"""The binary Hopfield network as a computation that must stop: its energy falls with every change.

The weights and the update are `jaxnets.models.hopfield.hebbian` and `recall`.

Shapes: `B` states, `M` stored patterns, `D` units.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.models.hopfield import hebbian, recall


def binary_energy(state: Array, weights: Array) -> Array:
    """`-s W s / 2` of states of -1 and 1 (Hopfield 1982), `[B]`.

    With symmetric weights and a zero diagonal, no update of one unit raises it, and a unit that changes lowers it. There
    are `2^D` states, so the network stops. If all units change at once (the parallel rule), it may go back and forth
    between two states for ever.

    Args:
        state: `[B, D]`.
        weights: `[D, D]`.
    """
    return -jnp.einsum("bi,ij,bj->b", state, weights, state) / 2


def recalled_fraction(patterns: int, units: int, *, seed: int = 0) -> float:
    """The share of random stored patterns that are fixed points, up to 5 % of their bits.

    Near 1 up to about `.138 D` patterns and far below it beyond (Amit, Gutfreund and Sompolinsky 1985).
    """
    if patterns < 1 or units < 2:
        raise ValueError(f"patterns is at least 1 and units at least 2, got {patterns} and {units}")
    stored = jax.random.rademacher(jax.random.key(seed), (patterns, units), jnp.float32)
    found = np.asarray(jax.jit(lambda x: recall(x, hebbian(x), sweeps=5))(stored))
    return float(((found == np.asarray(stored)).mean(axis=1) >= 0.95).mean())
