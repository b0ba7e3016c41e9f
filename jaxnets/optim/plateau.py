"""A learning rate that is reduced when evaluations no longer improve (`ReduceLROnPlateau` in Keras and PyTorch)."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.optim.given import as_optimizer, transformations
from jaxnets.optim.optimizers import Adam, Optimizer


class PlateauState(NamedTuple):
    """State of `Plateau`."""

    rate_scale: Array
    """What the updates are multiplied by, float32; the loop sets it after each evaluation."""
    inner: Any
    """State of the optimizer."""


@dataclasses.dataclass(frozen=True)
class Plateau(Optimizer):
    """Another optimizer, whose learning rate is multiplied by `factor` after `patience` evaluations without improvement.

    The scale is a function of the logged evaluations alone, so a run that was cut and resumed has the same bits. It multiplies
    the updates, which is the learning rate in all optimizers of `jaxnets.optim`. The evaluations are those during training, so
    the run sets a validation split aside, as for early stopping.
    """

    optimizer: Any = Adam()
    """What makes the updates: one of `jaxnets.optim`, an Optax transformation or a name."""
    factor: float = 0.1
    """The learning rate is multiplied by this, in (0, 1)."""
    patience: int = 5
    """Consecutive evaluations that do not improve on the best value before them."""
    metric: str = "loss"
    """Name of a metric of the evaluations."""
    min_delta: float = 0.0
    """An improvement is a change by more than this."""
    cooldown: int = 0
    """Evaluations after a reduction that do not count as evaluations without improvement."""
    minimum: float = 0.0
    """The scale does not fall below this share of the learning rate."""
    mode: Literal["auto", "max", "min"] = "auto"
    """Whether more or less is better; auto: as defined by the task, or as usual for a metric of this name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", as_optimizer(self.optimizer))
        if not 0 < self.factor < 1:
            raise UsageError(f"Plateau.factor is in (0, 1), got {self.factor}")
        if self.patience < 1:
            raise UsageError(f"Plateau.patience is a number of evaluations, at least 1; got {self.patience}")
        if not 0 <= self.min_delta < math.inf:
            raise UsageError(f"Plateau.min_delta is at least 0, got {self.min_delta}")
        if self.cooldown < 0:
            raise UsageError(f"Plateau.cooldown is a number of evaluations, at least 0; got {self.cooldown}")
        if not 0 <= self.minimum < 1:
            raise UsageError(f"Plateau.minimum is a share of the learning rate, in [0, 1); got {self.minimum}")

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        inner = optax.with_extra_args_support(self.optimizer.build(total_steps))

        def init(params: Any) -> PlateauState:
            return PlateauState(jnp.ones((), jnp.float32), inner.init(params))

        def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, PlateauState]:
            updates, new = inner.update(gradients, state.inner, params, **extra)
            updates = jax.tree.map(lambda u: u * state.rate_scale.astype(u.dtype), updates)
            return updates, PlateauState(state.rate_scale, new)

        return optax.GradientTransformationExtraArgs(init, update)

    def under(self, name: str) -> Optimizer:
        """See `Optimizer`."""
        return dataclasses.replace(self, optimizer=self.optimizer.under(name))

    def frozen(self, params: Any) -> Any:
        """See `Optimizer`."""
        return self.optimizer.frozen(params)

    def reductions(self, values: Iterable[float], mode: str) -> int:
        """How often the learning rate was reduced, by the values of the evaluations in order.

        NaN is no improvement. `mode` is "max" or "min".
        """
        best, waited, resting, found = math.nan, 0, 0, 0
        for value in values:
            gain = value - best if mode == "max" else best - value
            if not math.isnan(value) and (math.isnan(best) or gain > self.min_delta):
                best, waited = value, 0
            else:
                waited += 1
            if resting:
                resting, waited = resting - 1, 0
            if waited >= self.patience:
                resting, waited, found = self.cooldown, 0, found + 1
        return found

    def scale_after(self, reductions: int) -> float:
        """The scale of the learning rate after so many reductions."""
        return max(self.minimum, self.factor**reductions)


def plateau_of(optimizer: Optimizer) -> Plateau | None:
    """The `Plateau` in an optimizer, at any depth; raises `UsageError` if there are several that differ."""
    parts = transformations(optimizer)
    settings = {dataclasses.replace(part, optimizer=Adam()) for part in parts if isinstance(part, Plateau)}
    if len(settings) > 1:
        raise UsageError(
            f"an optimizer has one Plateau, or several with the same settings; got {len(settings)} that differ"
        )
    return next(iter(settings), None)


def with_rate_scale(opt_state: Any, scale: float) -> Any:
    """The state of an optimizer with the scale of `Plateau` in it set; the array stays where it was."""

    def is_plateau(node: Any) -> bool:
        return isinstance(node, PlateauState)

    def scaled(node: Any) -> Any:
        if not is_plateau(node):
            return node
        new = jax.device_put(np.float32(scale), node.rate_scale.sharding)
        return PlateauState(new, with_rate_scale(node.inner, scale))

    return jax.tree.map(scaled, opt_state, is_leaf=is_plateau)
