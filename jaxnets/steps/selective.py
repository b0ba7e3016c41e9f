"""Selective backpropagation: only the examples of a batch that have the largest loss get a gradient (Jiang et al. 2019).

The loss of every example is measured by a forward pass without gradient, in the mode of evaluation. Then the chosen rows are
gathered, and the step is taken on them alone: forward and back over a share of the batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Aux, Batch, Mean, Variables

Loss = Callable[[Variables, Batch, Array, bool], tuple[Mean, Aux]]


def hardest(loss: Loss, share: float) -> Loss:
    """The loss over the share of each batch (rounded up, at least one row) whose examples have the largest loss.

    The mean is over the chosen examples. A masked row is chosen last and has weight 0. Metrics are of the chosen rows.

    Args:
        loss: a loss `(variables, batch, key, train)` whose batch has a leading example dim in every array.
        share: in (0, 1].
    """

    def chosen(variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        rows = batch["mask"].shape[0]
        count = max(1, -int(-rows * share // 1))
        losses = _of_each(loss, variables, batch, key)
        # A loss that is NaN counts as the largest, so that the step includes it and the guard detects it.
        ranked = jnp.where(batch["mask"] > 0, jnp.where(jnp.isnan(losses), jnp.inf, losses), -jnp.inf)
        _, index = jax.lax.top_k(ranked, count)
        return loss(variables, jax.tree.map(lambda a: a[index], batch), key, train)

    return chosen


def _of_each(loss: Loss, variables: Variables, batch: Batch, key: Array) -> Array:
    """The loss of each example, `[B]` float32, without a gradient."""
    fixed = jax.lax.stop_gradient(variables)

    def one(example: Any) -> Array:
        mean, _ = loss(fixed, jax.tree.map(lambda a: a[None], example), key, False)
        return (mean.sum / jnp.maximum(mean.weight, 1e-30)).astype(jnp.float32)

    return jax.vmap(one)(batch)
