"""The state at step 0, from a task and a recipe."""

import jax
import jax.numpy as jnp

from jaxnets.core.types import Batch
from jaxnets.ops.initialisers import initialised
from jaxnets.ops.random import stream_key
from jaxnets.steps.local import spread
from jaxnets.steps.recipe import Recipe
from jaxnets.steps.state import TrainState, strongly_typed
from jaxnets.tasks.base import Task


def create_state(task: Task, recipe: Recipe, batch: Batch) -> TrainState:
    """The state at step 0, a pure function of the recipe's seed; trace it under `jax.jit` with `out_shardings`.

    Args:
        task: a bound task.
        recipe: seed, optimizer, precision and averaging of the run.
        batch: one batch of the right shapes (`jax.ShapeDtypeStruct` will do); its values are not used.
    """
    batch = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), batch)
    variables = dict(task.init(stream_key(recipe.seed, "init", 0), batch))
    params = initialised(variables.pop("params"), stream_key(recipe.seed, "kernels", 0), recipe.initialiser)
    params = recipe.precision.stored(params)
    guard = {"skipped": jnp.zeros((), jnp.int32), "left_out": jnp.zeros((), jnp.int32)}
    if recipe.precision.scales_loss:
        guard |= {"loss_scale": jnp.asarray(2.0**15, jnp.float32), "finite_streak": jnp.zeros((), jnp.int32)}
    # A copy: the first step could not donate the same buffer twice.
    average = jax.tree.map(jnp.copy, {"params": params, **variables}) if recipe.average.active else ()
    optimizer = {who: own for who, (own, _) in recipe.players.items()} or recipe.optimizer
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=variables,
        # Copies too: some optimizers begin with the parameters as part of their state.
        opt_state=jax.tree.map(jnp.copy, strongly_typed(task.init_optimizer(optimizer, params))),
        average=average,
        guard=guard,
    )
    return spread(state, recipe.local) if recipe.local.active else state


def abstract_state(task: Task, recipe: Recipe, batch: Batch) -> TrainState:
    """Shapes and dtypes of the state, computed without allocating any of it."""
    return jax.eval_shape(lambda: create_state(task, recipe, batch))
