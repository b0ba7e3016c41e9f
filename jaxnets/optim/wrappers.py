"""Optimizers that wrap another one: the base makes the updates, and the wrapper changes the weights before or after them.

Lookahead and schedule-free averaging are Optax's; sharpness-aware minimisation is here, because that of Optax counts its
ascent as a separate step.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax import contrib

from jaxnets.core.errors import UsageError
from jaxnets.ops.norm import global_norm
from jaxnets.optim.given import as_optimizer, with_lookahead
from jaxnets.optim.optimizers import SGD, AdamW, Optimizer
from jaxnets.optim.schedule_shapes import WSD


@dataclasses.dataclass(frozen=True)
class Wrapper(Optimizer):
    """Base of optimizers that wrap another one."""

    optimizer: Any = AdamW()
    """What makes the updates: one of `jaxnets.optim`, an Optax transformation or a name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", as_optimizer(self.optimizer))

    def under(self, name: str) -> Optimizer:
        """See `Optimizer`."""
        return dataclasses.replace(self, optimizer=self.optimizer.under(name))

    def frozen(self, params: Any) -> Any:
        """See `Optimizer`."""
        return self.optimizer.frozen(params)

    def rate_at(self, total_steps: int) -> optax.Schedule | None:
        """That of the base."""
        return self.optimizer.rate_at(total_steps)


class LookaheadScheduleState(NamedTuple):
    """State of `Lookahead` with a changing share. Its name and its field `count` make it a schedule: see
    `schedules.on_schedule`."""

    count: Array  # type: ignore[assignment]
    """Steps of the run so far."""
    inner: Any
    """State of the base."""
    slow: Any
    """The slow weights."""


@dataclasses.dataclass(frozen=True)
class Lookahead(Wrapper):
    """Slow weights that move by a share of the distance that the base moved in some updates (Zhang et al. 2019,
    arXiv:1907.08610).

    After every `every` updates the slow weights move by `share` of the distance to the weights, which continue from there.
    """

    every: int = 5
    """Updates of the base between two moves of the slow weights (k)."""
    share: float = 0.5
    """Share of the distance that the slow weights move, in (0, 1] (alpha)."""
    last_share: float | None = None
    """The share at the end of the run, in (0, 1]; after a part x of the run it is `share + (last_share - share) x ** 3`
    (Jordan 2024, arXiv:2404.00498, from 1 to `1 - .95 ** 5`). None: it stays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise UsageError(f"Lookahead.every is a number of updates, at least 1; got {self.every}")
        if not 0 < self.share <= 1:
            raise UsageError(f"Lookahead.share is in (0, 1], got {self.share}")
        if self.last_share is not None and not 0 < self.last_share <= 1:
            raise UsageError(f"Lookahead.last_share is in (0, 1], or None; got {self.last_share}")

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        if self.last_share is not None:
            return self._changing(max(1, total_steps), self.last_share)
        rule = optax.lookahead(self.optimizer.build(total_steps), self.every, self.share)
        inner = optax.with_extra_args_support(rule)

        def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            del extra  # Optax's lookahead does not support them
            return inner.update(gradients, state, params)

        return with_lookahead(optax.GradientTransformationExtraArgs(inner.init, update))

    def _changing(self, total_steps: int, last: float) -> optax.GradientTransformation:
        """With a share that depends on the step, which Optax's lookahead does not support."""
        inner = optax.with_extra_args_support(self.optimizer.build(total_steps))

        def init(params: Any) -> LookaheadScheduleState:
            return LookaheadScheduleState(jnp.zeros((), jnp.int32), inner.init(params), jax.tree.map(jnp.copy, params))

        def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, LookaheadScheduleState]:
            extra.pop("grad_fn", None)  # only the outermost optimizer gets the gradient at other weights
            moves, new = inner.update(gradients, state.inner, params, **extra)
            count = state.count + 1
            share = self.share + (last - self.share) * (count / total_steps) ** 3
            due = count % self.every == 0
            fast = optax.apply_updates(params, moves)
            slow = jax.tree.map(lambda s, f: jnp.where(due, s + share.astype(s.dtype) * (f - s), s), state.slow, fast)
            moves = jax.tree.map(lambda m, s, p: jnp.where(due, s - p, m), moves, slow, params)
            return moves, LookaheadScheduleState(count, new, slow)

        return optax.GradientTransformationExtraArgs(init, update)


@dataclasses.dataclass(frozen=True)
class ScheduleFree(Wrapper):
    """An average of the weights instead of a falling learning rate (Defazio et al. 2024, arXiv:2405.15682).

    The gradient is taken between the base's weights z and their average x, at `(1 - b1) z + b1 x`, and evaluation uses x. The
    base has no momentum: its `b1` or `momentum` is set to 0. Its schedule should warm up and then stay constant.
    """

    optimizer: Any = AdamW(schedule=WSD(decay=0.0))
    """The optimizer of z: SGD, Adam, AdamW or another optimizer with a learning rate."""
    b1: float = 0.9
    """The share of the average in the weights at which the gradient is taken, in (0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.b1 < 1:
            raise UsageError(f"ScheduleFree.b1 is in (0, 1), got {self.b1}")
        fields = {field.name for field in dataclasses.fields(self.optimizer)}
        if "schedule" not in fields or "learning_rate" not in fields:
            raise UsageError(
                f"ScheduleFree weighs its average by the learning rate, and {type(self.optimizer).__name__} does not say one; "
                f"take SGD, AdamW or another of jaxnets.optim, or optax.contrib.schedule_free itself"
            )
        plain = {name: 0.0 for name in ("b1", "momentum") if name in fields}
        object.__setattr__(self, "optimizer", dataclasses.replace(self.optimizer, **plain))

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        rate = self.optimizer.schedule.build(self.optimizer.learning_rate, total_steps)
        return contrib.schedule_free(self.optimizer.build(total_steps), rate, self.b1)


class SAMScheduleState(NamedTuple):
    """State of `SAM`. Its name and its field `count` make it a schedule: see `schedules.on_schedule`."""

    count: Array  # type: ignore[assignment]
    """Steps of the run so far."""
    inner: Any
    """State of the base."""


@dataclasses.dataclass(frozen=True)
class SAM(Wrapper):
    """Sharpness-aware minimisation (Foret et al. 2021, arXiv:2010.01412, equation 2).

    The base gets the gradient at `w + rho g / |g|`, where g is the gradient at w: a second gradient of the same batch with the
    same random draws, so a step takes twice as long. With `every` = k only each k-th step has a second gradient, at the
    distance `k rho`.
    """

    optimizer: Any = SGD()
    """The optimizer that makes the updates from that gradient."""
    rho: float = 0.05
    """Distance between the weights and the point of the second gradient, at least 0."""
    every: int = 1
    """Interval of the steps with two gradients; the other steps are plain steps of the base."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rho < math.inf:
            raise UsageError(f"SAM.rho is a distance, at least 0; got {self.rho}")
        if self.every < 1:
            raise UsageError(f"SAM.every is a number of steps, at least 1; got {self.every}")

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        inner = optax.with_extra_args_support(self.optimizer.build(total_steps))

        def init(params: Any) -> SAMScheduleState:
            return SAMScheduleState(jnp.zeros((), jnp.int32), inner.init(params))

        def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, SAMScheduleState]:
            if "grad_fn" not in extra:
                raise UsageError(
                    "SAM needs the gradient at other weights, which it gets as the outermost optimizer only; put the other "
                    "one inside, as in SAM(Lookahead(...))"
                )
            if self.every == 1:
                gradients = self._sharp(gradients, params, extra["grad_fn"])
            else:
                due = state.count % self.every == self.every - 1
                gradients = jax.lax.cond(
                    due, lambda g: self._sharp(g, params, extra["grad_fn"]), lambda g: g, gradients
                )
            updates, new = inner.update(gradients, state.inner, params, **extra)
            return updates, SAMScheduleState(state.count + 1, new)

        return optax.GradientTransformationExtraArgs(init, update)

    def _sharp(self, gradients: Any, params: Any, gradient_at: Any) -> Any:
        """The gradient at the worst place near the weights; the given one where that is not finite."""
        norm, _ = global_norm(gradients)
        way = self.rho * self.every / jnp.maximum(norm, 1e-12)
        there = jax.tree.map(lambda p, g: p + (way * g.astype(jnp.float32)).astype(p.dtype), params, gradients)
        sharp = gradient_at(there, None)
        _, finite = global_norm(sharp)
        return jax.tree.map(lambda a, b: jnp.where(finite.all(), a, b), sharp, gradients)
