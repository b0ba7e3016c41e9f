"""Averages of the weights over training: often better than the last weights, at the cost of one more copy.

An average is a tree of arrays in the state, placed as the weights are, so it is sharded, saved and resumed with them.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.durations import Clock, check_durations, in_steps
from jaxnets.core.typecheck import check_choices


@dataclasses.dataclass(frozen=True)
class Average:
    """Base of all averages. The average of step 0 is a copy of the first weights; evaluation uses the average."""

    @property
    def active(self) -> bool:
        """Whether averaging is on."""
        return True

    def in_run(self, total_steps: int) -> "Average":
        """This average for a run of `total_steps` steps, with its durations in steps."""
        del total_steps
        return self

    def update(self, average: Any, current: Any, updates: Array) -> Any:
        """The average after one more update, same tree; computed in the dtype of the leaves (float32).

        Args:
            average: the average before the update.
            current: the tree after the update.
            updates: number of updates averaged before.
        """
        raise NotImplementedError

    def recomputes(self, updates: Array) -> Array | None:
        """Whether the statistics of the averaged model are measured on this step's batch; None: never, they are averaged."""
        del updates
        return None


@dataclasses.dataclass(frozen=True)
class EMA(Average):
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
        """See `Average`."""
        decay = jnp.minimum(self.decay, (1.0 + updates) / (10.0 + updates))

        return jax.tree.map(lambda old, new: _towards(old, new, 1 - decay), average, current)


@dataclasses.dataclass(frozen=True)
class SWA(Average):
    """Stochastic weight averaging (Izmailov et al. 2018): the plain mean of the weights in the last part of the run.

    The learning rate should stay high in that part; a rate that falls to 0 leaves little to average. With batch norm, the
    running statistics of single weights do not fit their mean. By default they are measured again: in the last part each step
    also runs its batch through the averaged model, whose statistics are a tree of their own.
    """

    durations = ("start",)

    start: float | str = 0.75
    """When averaging begins: a share of the run, or another duration such as "3ep"; until then evaluation uses the newest
    weights."""
    every: int = 1
    """Updates between two weights that are averaged."""
    statistics: Literal["recomputed", "averaged"] = "recomputed"
    """Batch statistics of the averaged model: measured by it, at the cost of a forward pass a step, or averaged."""

    def __post_init__(self) -> None:
        check_durations(self, "start")
        if self.every < 1:
            raise ValueError(f"SWA.every is a number of updates, at least 1; got {self.every}")
        check_choices(self)

    def in_run(self, total_steps: int) -> Average:
        """See `Average`."""
        return _MeanFrom(max(1, in_steps(self.start, Clock(total_steps))), self.every, self.statistics == "recomputed")


@dataclasses.dataclass(frozen=True)
class _MeanFrom(Average):
    """The mean of the weights after `first`, `first + every`, `first + 2 every`, ... updates; before, a copy of the newest."""

    first: int
    every: int
    measured: bool

    def update(self, average: Any, current: Any, updates: Array) -> Any:
        """See `Average`."""
        since = updates + 1 - self.first
        due, share = since % self.every == 0, 1.0 / (1 + jnp.maximum(since, 0) // self.every)

        def mean(old: Array, new: Array) -> Array:
            return jnp.where(since <= 0, new, jnp.where(due, _towards(old, new, share), old))

        return jax.tree.map(mean, average, current)

    def recomputes(self, updates: Array) -> Array | None:
        """See `Average`."""
        return updates + 1 > self.first if self.measured else None


def _towards(old: Array, new: Array, share: Array) -> Array:
    """`old` moved by a share of the way to `new`; `new` itself if it cannot be averaged."""
    if not jnp.issubdtype(old.dtype, jnp.inexact):
        return new
    # An average that starts at infinity (a running maximum without data) would stay there.
    return jnp.where(jnp.isfinite(old), old + share.astype(old.dtype) * (new - old), new)
