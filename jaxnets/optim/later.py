"""Parameters that are trained from some step on, or up to some step.

From a step on: gradual unfreezing (ULMFiT, Howard and Ruder 2018, arXiv:1801.06146). Up to a step: freezing of layers, the
first ones first (FreezeOut, Brock et al. 2017, arXiv:1706.04983).
"""

import dataclasses
from collections.abc import Callable
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
    """State of `Later` and `Until`. Its name and its field `count` make it a schedule: see `schedules.on_schedule`."""

    count: Array  # type: ignore[assignment]
    """Steps of the run so far."""
    inner: Any
    """State of the optimizer."""


def _switched(
    whole: optax.GradientTransformation, on: Callable[[Array], Array]
) -> optax.GradientTransformationExtraArgs:
    """A transformation that is without effect, and keeps its state, at steps where `on(step)` is false."""
    inner = optax.with_extra_args_support(whole)

    def init(params: Any) -> LaterScheduleState:
        return LaterScheduleState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, LaterScheduleState]:
        updates, new = inner.update(gradients, state.inner, params, **extra)
        counts = on(state.count)
        updates = jax.tree.map(lambda u: jnp.where(counts, u, jnp.zeros_like(u)), updates)
        kept = jax.tree.map(lambda a, b: jnp.where(counts, a, b), new, state.inner)
        return updates, LaterScheduleState(state.count + 1, kept)

    return optax.GradientTransformationExtraArgs(init, update)


@dataclasses.dataclass(frozen=True)
class _Switched(Optimizer):
    """Another optimizer, which acts only before or only after a step of the run."""

    optimizer: Any = AdamW()
    """What makes the updates: one of `jaxnets.optim`, an Optax transformation or a name."""
    step: int | str = 0
    """The step of the run at which it changes, also as a duration: "3ep", "0.25dur"."""

    durations = ("step",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", as_optimizer(self.optimizer))
        if isinstance(self.step, str):
            check_durations(self, "step")
        elif self.step < 0:
            raise UsageError(f"{type(self).__name__}.step is a step of the run, at least 0; got {self.step}")

    def acts(self, count: Any, first: int) -> Any:
        """Whether its updates count at step `count` of the run, where it changes at step `first`."""
        raise NotImplementedError

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        first = self._first(total_steps)
        return _switched(self.optimizer.build(total_steps), lambda count: self.acts(count, first))

    def under(self, name: str) -> Optimizer:
        """See `Optimizer`."""
        return dataclasses.replace(self, optimizer=self.optimizer.under(name))

    def frozen(self, params: Any) -> Any:
        """See `Optimizer`."""
        return self.optimizer.frozen(params)

    def rates(self, total_steps: int, steps: int) -> np.ndarray | None:
        """Those of the optimizer, 0 where it does not act."""
        found = self.optimizer.rates(total_steps, steps)
        acts = self.acts(np.arange(steps), self._first(total_steps))
        return None if found is None else np.where(acts, found, np.float32(0))

    def _first(self, total_steps: int) -> int:
        return in_steps(self.step, Clock(total_steps)) if isinstance(self.step, str) else self.step


@dataclasses.dataclass(frozen=True)
class Later(_Switched):
    """Another optimizer, which starts at a step of the run; before it the parameters do not change and it has no moments.

    Unfreezing from the output down: `{"output/.*": "adamw", "body_1/.*": Later("adamw", 500), ".*": Later("adamw", 1000)}`.
    Schedules count all steps of the run, so it starts with the learning rate of that step.
    """

    def acts(self, count: Any, first: int) -> Any:
        """From its step on."""
        return count >= first


@dataclasses.dataclass(frozen=True)
class Until(_Switched):
    """Another optimizer, which ends at a step of the run; after it the parameters do not change.

    Freezing from the input up: `{"body_0/.*": Until("adamw", 500), "body_1/.*": Until("adamw", 1000), ".*": "adamw"}`. The
    gradients of frozen parameters are still computed, because all steps run the same program.
    """

    def acts(self, count: Any, first: int) -> Any:
        """Before its step."""
        return count < first
