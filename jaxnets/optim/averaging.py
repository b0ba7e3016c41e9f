"""Averages of the weights over training: often better than the last weights, at the price of one copy of them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class EMA:
    """Exponential moving average of parameters and batch statistics; evaluation uses it in their place.

    Real and complex numbers are averaged. Whole numbers, bools and random keys in a model's state have no average: the newest
    is taken.
    """

    decay: float = 0.0
    """Share of the average kept at each step, in [0, 1); early on it is less, `(1 + n) / (10 + n)` after
    `n` updates (steps that were left out are none). 0 is off."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"EMA decay is in [0, 1), got {self.decay}")

    @property
    def active(self) -> bool:
        """Whether there is an average at all."""
        return self.decay > 0

    def update(self, average: Any, current: Any, updates: Array) -> Any:
        """The average after one more update, same tree; computed in the leaves' own dtype (float32).

        Args:
            average: that before it.
            current: the tree after it.
            updates: how many were averaged before.
        """
        decay = jnp.minimum(self.decay, (1.0 + updates) / (10.0 + updates))

        def moved(old: Array, new: Array) -> Array:
            if not jnp.issubdtype(old.dtype, jnp.inexact):
                return new
            # From infinity (a running maximum that has seen nothing) no average would ever come back.
            return jnp.where(jnp.isfinite(old), old + (1 - decay).astype(old.dtype) * (new - old), new)

        return jax.tree.map(moved, average, current)
