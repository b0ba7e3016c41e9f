"""Learning-rate schedules. Durations are shares of the run, so they scale with its length.

A schedule counts the batches of a run. A skipped step (its batch masked, or a number not finite) counts too, so the later
batches keep their learning rates. `on_schedule` sets this count in every schedule of an optimizer's state, also of plain
Optax chains.
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
    """The shape of the learning rate over a run."""

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """The learning rate as a function of the step, for this peak value and length of the run."""
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
    """Learning rate at the end of the run, as a share of the peak."""

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
    """Learning rate at the end of the run, as a share of the peak."""

    def __post_init__(self) -> None:
        _check_share("warmup", self.warmup)
        _check_share("final", self.final)

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        warm = round(self.warmup * total_steps)
        decay = optax.linear_schedule(peak, self.final * peak, max(1, total_steps - warm))
        return optax.join_schedules([_ramp(peak, warm), decay], [warm]) if warm else decay


def _ramp(peak: float, steps: int) -> optax.Schedule:
    # Starts at peak / (steps + 1), so that the first step changes the weights.
    return lambda count: peak * (count + 1) / (steps + 1)


def rates(schedule: optax.Schedule, steps: int) -> np.ndarray:
    """The values of a schedule at steps 0 to `steps - 1`, float32 `[steps]`."""
    if not steps:
        return np.zeros(0, np.float32)
    return np.asarray(jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32))(jnp.arange(steps)))


def on_schedule(opt_state: Any, step: Array) -> Any:
    """The optimizer's state with the count of every schedule set to `step`; counts of updates (Adam's) are unchanged."""

    def is_schedule(node: Any) -> bool:
        # Match by fields and name, not by class: Optax has three such states and may add more.
        fields = getattr(type(node), "_fields", ())
        return "count" in fields and ("Schedule" in type(node).__name__ or "hyperparams" in fields)

    def counts_updates(node: Any) -> bool:
        # Inside `optax.MultiSteps` a schedule counts updates, of which there is one in several batches.
        return "gradient_step" in getattr(type(node), "_fields", ())

    def at_step(node: Any) -> Any:
        if not is_schedule(node):
            return node
        inner = {name: on_schedule(getattr(node, name), step) for name in node._fields if name != "count"}
        return node._replace(count=jnp.asarray(step, node.count.dtype), **inner)

    return jax.tree.map(at_step, opt_state, is_leaf=lambda node: is_schedule(node) or counts_updates(node))
