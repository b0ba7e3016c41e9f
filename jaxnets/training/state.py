"""The training state: everything that changes from step to step, as one plain tree of arrays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Batch, Variables
from jaxnets.ops.random import stream_key
from jaxnets.tasks.base import Task
from jaxnets.training.step import Recipe


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Arrays only, no functions: it can be sharded, saved, compared and counted like any other tree."""

    step: Array
    """Updates done so far, int32; checkpoint k holds the state after k updates, and the next batch is number k."""
    params: Any
    """The model's parameters, float32."""
    model_state: Variables
    """The module's other collections (batch statistics); {} where it has none."""
    opt_state: Any
    """The optimizer's state."""
    average: Any
    """Averaged parameters and model state, {"params": ..., **model_state}; () without averaging."""
    guard: dict[str, Array]
    """Counters and scales of the guards, float32 and int32 scalars."""

    @property
    def variables(self) -> Variables:
        """What the model's `apply` takes, as it stands now."""
        return {"params": self.params, **self.model_state}

    @property
    def best_variables(self) -> Variables:
        """The averaged variables where there is an average, else the current ones: what evaluation uses."""
        return self.average if jax.tree.leaves(self.average) else self.variables


def create_state(task: Task, recipe: Recipe, batch: Batch) -> TrainState:
    """The state at step 0, a pure function of the recipe's seed; trace it under `jax.jit` with `out_shardings`.

    Args:
        task: a bound task.
        recipe: seed, optimizer, precision and averaging of the run.
        batch: one batch of the right shapes (`jax.ShapeDtypeStruct` will do); its values are not used.
    """
    batch = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), batch)
    variables = dict(task.init(stream_key(recipe.seed, "init", 0), batch))
    params = variables.pop("params")
    guard = {"skipped": jnp.zeros((), jnp.int32), "left_out": jnp.zeros((), jnp.int32)}
    if recipe.precision.scales_loss:
        guard |= {"loss_scale": jnp.asarray(2.0**15, jnp.float32), "finite_streak": jnp.zeros((), jnp.int32)}
    # A copy, or the first donated step would be asked to give the same buffer away twice.
    average = jax.tree.map(jnp.copy, {"params": params, **variables}) if recipe.average.active else ()
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=variables,
        opt_state=task.init_optimizer(recipe.optimizer, params),
        average=average,
        guard=guard,
    )


def abstract_state(task: Task, recipe: Recipe, batch: Batch) -> TrainState:
    """Shapes and dtypes of the state, computed without allocating any of it."""
    return jax.eval_shape(lambda: create_state(task, recipe, batch))
