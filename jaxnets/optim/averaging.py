"""Averages of the weights over training: often better than the last weights, at the cost of one more copy."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class EMA:
    """Exponential moving average of parameters and batch statistics; evaluation uses the average.

    Real and complex numbers are averaged. For integers, bools and random keys in a model's state the newest value is taken.
    """

    decay: float = 0.0
    """Decay per update, in [0, 1), at most `(1 + n) / (10 + n)` after `n` updates; skipped steps are not updates. 0 is
    off."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"EMA decay is in [0, 1), got {self.decay}")

    @property
    def active(self) -> bool:
        """Whether averaging is on."""
        return self.decay > 0

    def update(self, average: Any, current: Any, updates: Array) -> Any:
        """The average after one more update, same tree; computed in the dtype of the leaves (float32).

        Args:
            average: the average before the update.
            current: the tree after the update.
            updates: number of updates averaged before.
        """
        decay = jnp.minimum(self.decay, (1.0 + updates) / (10.0 + updates))

        def moved(old: Array, new: Array) -> Array:
            if not jnp.issubdtype(old.dtype, jnp.inexact):
                return new
            # An average that starts at infinity (a running maximum without data) would stay there.
            return jnp.where(jnp.isfinite(old), old + (1 - decay).astype(old.dtype) * (new - old), new)

        return jax.tree.map(moved, average, current)
