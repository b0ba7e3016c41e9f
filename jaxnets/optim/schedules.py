"""Learning-rate schedules. Durations are shares of the run, so they survive a change of its length.

A schedule counts the batches of a run. A step that changed nothing (its batch masked, a number not finite) still is a step of
the schedule, so the batches after it have the learning rate that they would have had. `on_schedule` sees to that for every
schedule in an optimizer's state, whoever built it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A shape for the learning rate over a run."""

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """The learning rate as a function of the step, from the peak value and the length of the run."""
        raise NotImplementedError


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a share of the run, between 0 and 1; got {value}")


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """The same learning rate at every step."""

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        del total_steps
        return optax.constant_schedule(peak)


@dataclasses.dataclass(frozen=True)
class WarmupCosine(Schedule):
    """Linear warm-up from 0, then half a cosine down (Loshchilov and Hutter, 2017)."""

    warmup: float = 0.05
    """Share of the run spent warming up."""
    final: float = 0.0
    """What the learning rate falls to at the end of the run, as a share of the peak."""

    def __post_init__(self) -> None:
        _check_share("warmup", self.warmup)
        _check_share("final", self.final)

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        warm = round(self.warmup * total_steps)
        decay = optax.cosine_decay_schedule(peak, max(1, total_steps - warm), alpha=self.final)
        return optax.join_schedules([_ramp(peak, warm), decay], [warm]) if warm else decay


@dataclasses.dataclass(frozen=True)
class WarmupLinear(Schedule):
    """Linear warm-up from 0, then a straight line down (a triangle, as in "one cycle" runs)."""

    warmup: float = 0.2
    """Share of the run spent warming up."""
    final: float = 0.0
    """What the learning rate falls to at the end of the run, as a share of the peak."""

    def __post_init__(self) -> None:
        _check_share("warmup", self.warmup)
        _check_share("final", self.final)

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        warm = round(self.warmup * total_steps)
        decay = optax.linear_schedule(peak, self.final * peak, max(1, total_steps - warm))
        return optax.join_schedules([_ramp(peak, warm), decay], [warm]) if warm else decay


def _ramp(peak: float, steps: int) -> optax.Schedule:
    # Starts one notch above 0, so that the first step moves.
    return lambda count: peak * (count + 1) / (steps + 1)


def rates(schedule: optax.Schedule, steps: int) -> np.ndarray:
    """What a schedule says at the steps 0, 1, ... `steps - 1`, float32 `[steps]`."""
    if not steps:
        return np.zeros(0, np.float32)
    return np.asarray(jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32))(jnp.arange(steps)))


def on_schedule(opt_state: Any, step: Array) -> Any:
    """An optimizer's state with all its schedules at a training step; counts of updates (Adam's) stay as they are."""

    def is_schedule(node: Any) -> bool:
        # By what they are, not by their class: Optax has three kinds of them, and may get more.
        fields = getattr(type(node), "_fields", ())
        return "count" in fields and ("Schedule" in type(node).__name__ or "hyperparams" in fields)

    def at_step(node: Any) -> Any:
        if not is_schedule(node):
            return node
        inner = {name: on_schedule(getattr(node, name), step) for name in node._fields if name != "count"}
        return node._replace(count=jnp.asarray(step, node.count.dtype), **inner)

    return jax.tree.map(at_step, opt_state, is_leaf=is_schedule)
