"""Metrics of a step itself: numbers as means over steps, and the guard's counters in the state."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Mean
from jaxnets.ops.norm import global_norm

# float16's loss scale doubles after this many finite steps and halves at a non-finite one (Micikevicius et al. 2018).
GROWTH_INTERVAL = 2000


def flag_of(flag: Array) -> Mean:
    """1 if a condition holds in a step, else 0, as a mean over steps."""
    return Mean(flag.astype(jnp.float32), jnp.ones(()))


def counted(value: Array, counts: Array) -> Mean:
    """A number of this step as a mean over steps; where `counts` is false it has no weight, and its value is ignored."""
    return Mean(jnp.where(counts, value, 0.0), counts.astype(jnp.float32))


def norm_of(gradients: Any) -> tuple[Array, Array]:
    """The norm of all gradients together, and 1 + the number of the first leaf that is not finite (0: none), float32."""
    norm, finite = global_norm(gradients)
    return norm, jnp.where(finite.all(), 0.0, jnp.argmin(finite) + 1.0)


def count_step(guard: dict[str, Array], finite: Array, empty: Array) -> dict[str, Array]:
    """The guard's counters after a step; with loss scaling, the next scale."""
    more = {"skipped": ~finite, "left_out": empty}
    after = {**guard, **{name: guard[name] + flag.astype(jnp.int32) for name, flag in more.items()}}
    if "loss_scale" in guard:
        streak = jnp.where(finite, guard["finite_streak"] + 1, 0)
        grown = streak >= GROWTH_INTERVAL
        scale = jnp.where(
            finite, jnp.where(grown, guard["loss_scale"] * 2, guard["loss_scale"]), guard["loss_scale"] / 2
        )
        after |= {"loss_scale": jnp.maximum(scale, 1.0), "finite_streak": jnp.where(grown, 0, streak)}
    return after
