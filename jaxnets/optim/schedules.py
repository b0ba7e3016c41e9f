"""Learning-rate schedules: pure functions of the number of the batch, in terms of the peak and the length of the run.

Durations are shares of the run, so that they scale with its length, or steps, epochs, examples or tokens
(`jaxnets.core.durations`). When a run is built, `with_clock` converts the last three to steps.

A schedule counts the batches of a run. A skipped step (its batch masked, or a number not finite) counts too, so the later
batches keep their learning rates. `on_schedule` sets this count in every schedule of an optimizer's state, also of plain
Optax chains. Further shapes are in `jaxnets.optim.schedule_shapes`.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnets.core.durations import Clock, as_steps, check_durations, in_steps
from jaxnets.core.typecheck import check_choices


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The shape of the learning rate over a run."""

    durations: ClassVar[tuple[str, ...]] = ()
    """The fields that hold durations."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_durations(self, *self.durations)
        final = getattr(self, "final", 0.0)
        if not 0 <= final <= 1:
            raise ValueError(f"final is a share of the peak, between 0 and 1; got {final}")

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """The learning rate as a function of the step, for this peak value and length of the run.

        Raises:
            UnknownLengthError: a duration is in epochs, examples or tokens, which only a run can count.
        """
        raise NotImplementedError


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

    warmup: float | str = 0.05
    """Time spent warming up: a share of the run, or "500ba", "2ep"."""
    final: float = 0.0
    """Learning rate at the end of the run, as a share of the peak."""

    durations = ("warmup",)

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        warm = in_steps(self.warmup, Clock(total_steps))
        return warmed(peak, warm, optax.cosine_decay_schedule(peak, max(1, total_steps - warm), alpha=self.final))


@dataclasses.dataclass(frozen=True)
class WarmupLinear(Schedule):
    """Linear warm-up from 0, then a straight line down (a triangle, as in "one cycle" runs)."""

    warmup: float | str = 0.2
    """Time spent warming up: a share of the run, or "500ba", "2ep"."""
    final: float = 0.0
    """Learning rate at the end of the run, as a share of the peak."""

    durations = ("warmup",)

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        warm = in_steps(self.warmup, Clock(total_steps))
        return warmed(peak, warm, optax.linear_schedule(peak, self.final * peak, max(1, total_steps - warm)))


def warmed(peak: float, warm: int, rest: optax.Schedule, *, from_zero: bool = False) -> optax.Schedule:
    """A ramp of `warm` steps, then `rest`, which counts from the end of the ramp, or with `from_zero` from step 0."""
    if not warm:
        return rest
    after = (lambda count: rest(count + warm)) if from_zero else rest
    return optax.join_schedules([_ramp(peak, warm), after], [warm])


def with_clock(value: Any, clock: Clock) -> Any:
    """A schedule, or an optimizer with schedules at any depth, whose epochs, examples and tokens are converted to steps."""
    if type(value) is tuple:
        parts = tuple(with_clock(item, clock) for item in value)
        return value if all(new is old for new, old in zip(parts, value, strict=True)) else parts
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    changed = {}
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        if field.name not in getattr(value, "durations", ()) or isinstance(held, int):
            new = with_clock(held, clock)
        else:
            new = tuple(as_steps(one, clock) for one in held) if isinstance(held, tuple) else as_steps(held, clock)
            new = held if new == held else new
        if new is not held:
            changed[field.name] = new
    return dataclasses.replace(value, **changed) if changed else value


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
