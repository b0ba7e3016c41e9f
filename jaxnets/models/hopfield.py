"""Hopfield networks, binary and continuous: associative memories that retrieve a stored pattern from a part of it.

Shapes: `B` queries, `M` stored patterns, `D` numbers in a pattern, `C` outputs.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.models.layers import Dense, check_layers


def retrieve(query: Array, patterns: Array, *, beta: float = 1.0, steps: int = 1) -> Array:
    """Repeat `xi' = softmax(beta xi X^T) X` (Ramsauer et al. 2021, "Hopfield Networks is All You Need", eq. 3).

    One step is attention with the patterns as keys and values. It is enough for well separated patterns.

    Args:
        query: initial states, `[B, D]`.
        patterns: stored patterns, `[M, D]`.
        beta: inverse temperature; a small one retrieves means of several patterns.
        steps: number of updates.
    """
    for _ in range(steps):
        query = jax.nn.softmax(beta * query @ patterns.T, axis=-1) @ patterns
    return query


def energy(query: Array, patterns: Array, *, beta: float = 1.0) -> Array:
    """The energy of states, `[B]` (eq. 2); no step of `retrieve` increases it.

    `-lse(beta, X xi) + |xi|^2 / 2 + ln(M) / beta + max |x|^2 / 2`, with `lse(beta, z) = ln(sum exp(beta z)) / beta`.
    """
    overlap = jax.nn.logsumexp(beta * query @ patterns.T, axis=-1) / beta
    largest = jnp.square(patterns).sum(axis=-1).max()
    return jnp.square(query).sum(axis=-1) / 2 - overlap + jnp.log(patterns.shape[0]) / beta + largest / 2


def hebbian(patterns: Array) -> Array:
    """The weights `[D, D]` of the binary network (Hopfield 1982) that stores patterns `[M, D]` of -1 and 1."""
    weights = patterns.T @ patterns / patterns.shape[1]
    return weights - jnp.diag(jnp.diag(weights))


def recall(state: Array, weights: Array, *, sweeps: int = 5) -> Array:
    """States `[B, D]` of -1 and 1 after `sweeps` passes in which each unit in turn takes the sign of its potential."""

    def update(unit: Array, state: Array) -> Array:
        potential = state @ weights[unit % weights.shape[0]]
        # A potential of 0 leaves the unit as it is.
        kept = state[:, unit % weights.shape[0]]
        return state.at[:, unit % weights.shape[0]].set(jnp.where(potential == 0, kept, jnp.sign(potential)))

    return jax.lax.fori_loop(0, sweeps * weights.shape[0], update, state)


class Hopfield(nn.Module):
    """An associative memory of trained patterns: a dense query layer, `retrieve`, and a dense output layer."""

    patterns: int = 64
    """Stored patterns; they are trained parameters."""
    width: int = 64
    """Numbers in a pattern."""
    beta: float | None = None
    """Inverse temperature; None: `1 / sqrt(width)`, as in attention."""
    steps: int = 1
    """Updates of the query."""
    outputs: int | None = None
    """Output units; None: as many as the task needs (classes, or 1 for regression)."""

    def __post_init__(self) -> None:
        check_layers(self)
        for name in ("patterns", "steps"):
            if isinstance(getattr(self, name), int) and getattr(self, name) < 1:
                raise ValueError(f"Hopfield.{name} is at least 1, got {getattr(self, name)}")
        if isinstance(self.beta, int | float) and not self.beta > 0:
            raise ValueError(f"Hopfield.beta is above 0, or None for 1 / sqrt(width); got {self.beta}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, C]` of inputs `[B, ...]`; the trailing dims are flattened."""
        query = Dense(self.width, name="query")(x.reshape(x.shape[0], -1))
        patterns = self.param("patterns", nn.initializers.normal(1.0), (self.patterns, self.width)).astype(query.dtype)
        found = retrieve(query, patterns, beta=self.beta or self.width**-0.5, steps=self.steps)
        return Dense(self.outputs or 1, name="output")(found)
