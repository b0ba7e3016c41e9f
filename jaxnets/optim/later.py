"""Parameters that are trained from some step on: gradual unfreezing (ULMFiT, Howard and Ruder 2018, arXiv:1801.06146)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnets.core.durations import Clock, check_durations, in_steps
from jaxnets.core.errors import UsageError
from jaxnets.optim.given import as_optimizer
from jaxnets.optim.optimizers import AdamW, Optimizer


class LaterScheduleState(NamedTuple):
    """State of `Later`. Its name and its field `count` make it a schedule: see `schedules.on_schedule`."""

    count: Array  # type: ignore[assignment]
    """Steps of the run so far."""
    inner: Any
    """State of the optimizer."""


@dataclasses.dataclass(frozen=True)
class Later(Optimizer):
    """Another optimizer, which begins at a step of the run; before it the parameters keep their bits and it has no moments.

    Unfreezing from the output down: `{"output/.*": "adamw", "body_1/.*": Later("adamw", 500), ".*": Later("adamw", 1000)}`.
    Schedules count all steps of the run, so the rate at which it begins is that of the step.
    """

    optimizer: Any = AdamW()
    """What makes the updates: one of `jaxnets.optim`, an Optax transformation or a name."""
    step: int | str = 0
    """The first step whose update counts, also as a duration: "3ep", "0.25dur"."""

    durations = ("step",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", as_optimizer(self.optimizer))
        if isinstance(self.step, str):
            check_durations(self, "step")
        elif self.step < 0:
            raise UsageError(f"Later.step is a step of the run, at least 0; got {self.step}")

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        inner = optax.with_extra_args_support(self.optimizer.build(total_steps))
        first = self._first(total_steps)

        def init(params: Any) -> LaterScheduleState:
            return LaterScheduleState(jnp.zeros((), jnp.int32), inner.init(params))

        def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, LaterScheduleState]:
            updates, new = inner.update(gradients, state.inner, params, **extra)
            begun = state.count >= first
            updates = jax.tree.map(lambda u: jnp.where(begun, u, jnp.zeros_like(u)), updates)
            kept = jax.tree.map(lambda a, b: jnp.where(begun, a, b), new, state.inner)
            return updates, LaterScheduleState(state.count + 1, kept)

        return optax.GradientTransformationExtraArgs(init, update)

    def under(self, name: str) -> Optimizer:
        """See `Optimizer`."""
        return dataclasses.replace(self, optimizer=self.optimizer.under(name))

    def frozen(self, params: Any) -> Any:
        """See `Optimizer`."""
        return self.optimizer.frozen(params)

    def rates(self, total_steps: int, steps: int) -> np.ndarray | None:
        """Those of the optimizer, 0 before it begins."""
        found = self.optimizer.rates(total_steps, steps)
        return None if found is None else np.where(np.arange(steps) >= self._first(total_steps), found, np.float32(0))

    def _first(self, total_steps: int) -> int:
        return in_steps(self.step, Clock(total_steps)) if isinstance(self.step, str) else self.step
