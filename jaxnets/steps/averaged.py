"""The average of the weights, updated after a task's step, and the batch statistics of the averaged model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Batch
from jaxnets.ops.random import with_keys
from jaxnets.optim import reading
from jaxnets.steps.state import TrainState
from jaxnets.steps.step import TAKEN, Loss, Metrics, Recipe, Step, keep_if, minimised, split


def with_average(step: Step, recipe: Recipe, loss: Loss | None = None) -> Step:
    """A task's step that also updates the average of the weights, where there is one.

    A step that was not taken leaves the average as it is. A step that says nothing of it (no `taken` among its metrics) is
    always taken. `taken` itself is not handed on. By `loss` the averaged model measures its batch statistics, where the
    average asks for it; None: they are averaged like the weights.
    """
    average = recipe.average

    def averaged(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new, metrics = step(state, batch)
        taken = metrics[TAKEN].sum > 0 if TAKEN in metrics else jnp.ones((), bool)
        metrics = {name: mean for name, mean in metrics.items() if name != TAKEN}
        if not average.active:
            return new, metrics
        batches = state.step - state.guard["skipped"] - state.guard["left_out"]
        updates = reading.updates_done(state.opt_state, batches)
        after = average.update(state.average, new.variables, updates)
        measured = average.recomputes(updates)
        if loss is not None and measured is not None and state.model_state:
            after |= _statistics(loss, recipe, state, after, batch, measured)
        return dataclasses.replace(
            new, average=keep_if(taken & reading.moved(new.opt_state), after, state.average)
        ), metrics

    return averaged


def _statistics(
    loss: Loss, recipe: Recipe, state: TrainState, after: Any, batch: Batch, measured: Array
) -> dict[str, Any]:
    """The other collections of the averaged model: after it has seen this batch if `measured`, else those of `after`."""
    batch = with_keys(batch, recipe.key("examples", state.step))
    part = jax.tree.map(lambda a: split(a, recipe.micro_batches)[0], batch)

    def measure() -> dict[str, Any]:
        own = {name: state.average[name] for name in state.model_state}
        variables, given = recipe.precision.cast({"params": after["params"], **own}, part)
        return dict(minimised(loss)(variables, given, recipe.key("model", state.step), True)[1].model_state)

    return jax.lax.cond(measured, measure, lambda: {name: after[name] for name in state.model_state})
