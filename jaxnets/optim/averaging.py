"""Averages of the weights over training: often better than the last weights, at the price of one copy of them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class EMA:
    """Exponential moving average of parameters and batch statistics; evaluation uses it in their place."""

    decay: float = 0.0
    """Share of the average kept at each step, in [0, 1); early on it is less, `(1 + step) / (10 + step)`. 0 is off."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"EMA decay is in [0, 1), got {self.decay}")

    @property
    def active(self) -> bool:
        """Whether there is an average at all."""
        return self.decay > 0

    def update(self, average: Any, current: Any, step: Array) -> Any:
        """The average after `step` updates, same tree; computed in the leaves' own dtype (float32)."""
        decay = jnp.minimum(self.decay, (1.0 + step) / (10.0 + step))
        return jax.tree.map(lambda a, c: a + (1 - decay).astype(a.dtype) * (c - a), average, current)
