"""Weights kept in bfloat16, whose updates are rounded up or down at random so that they are right on average.

A bfloat16 number has 8 significant bits. An update of less than half the distance to the next number (0.2 % of a weight) is
lost when it is rounded to the nearest, and the weight stays where it is. Rounded at random (Gupta et al. 2015; Zamirai et al.
2021), the weight moves with the probability that makes its mean right.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnets.ops.random import hashed_uniform
from jaxnets.optim.eight_bit import to_bfloat16
from jaxnets.optim.given import as_optimizer
from jaxnets.optim.optimizers import AdamW, Optimizer


class StochasticRoundingScheduleState(NamedTuple):
    """State of `StochasticRounding`. Its name and its field `count` make it a schedule: see `schedules.on_schedule`."""

    count: Array  # type: ignore[assignment]
    """Steps of the run so far, the seed of the rounding."""
    inner: Any
    """State of the optimizer, in float32."""


@dataclasses.dataclass(frozen=True)
class StochasticRounding(Optimizer):
    """Another optimizer, for weights that are kept in bfloat16 (`precision.weights`): 2 bytes for each weight instead of 4.

    It sees weights and gradients in float32, and its moments are float32. The few weights that stay float32 (those that
    `steps.precision` names) are updated without rounding.
    """

    optimizer: Any = AdamW()
    """What makes the updates: one of `jaxnets.optim`, an Optax transformation or a name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", as_optimizer(self.optimizer))

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """See `Optimizer`."""
        inner = optax.with_extra_args_support(self.optimizer.build(total_steps))

        def init(params: Any) -> StochasticRoundingScheduleState:
            return StochasticRoundingScheduleState(jnp.zeros((), jnp.int32), inner.init(_wide(params)))

        def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            wide = _wide(params)
            updates, new = inner.update(_wide(gradients), state.inner, wide, **extra)
            moves = [
                _rounded(old, move, state.count, number) if old.dtype == jnp.bfloat16 else move
                for number, (old, move) in enumerate(
                    zip(jax.tree.leaves(params), jax.tree.leaves(updates), strict=True)
                )
            ]
            updates = jax.tree.unflatten(jax.tree.structure(params), moves)
            return updates, StochasticRoundingScheduleState(state.count + 1, new)

        return optax.GradientTransformationExtraArgs(init, update)

    def under(self, name: str) -> Optimizer:
        """See `Optimizer`."""
        return dataclasses.replace(self, optimizer=self.optimizer.under(name))

    def frozen(self, params: Any) -> Any:
        """See `Optimizer`."""
        return self.optimizer.frozen(params)

    def rates(self, total_steps: int, steps: int) -> np.ndarray | None:
        """Those of the optimizer."""
        return self.optimizer.rates(total_steps, steps)


def _wide(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.bfloat16 else a, tree)


def _rounded(old: Array, move: Array, step: Array, number: int) -> Array:
    """The float32 difference between a weight and its new bfloat16 value; added to the weight, it gives that value."""
    noise = hashed_uniform(old.shape, step, number)
    wide = old.astype(jnp.float32)
    return to_bfloat16(wide + move, noise).astype(jnp.float32) - wide
