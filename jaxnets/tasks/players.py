"""Training several players in turns, each on its part of the training state.

Parameters, other collections and optimizer states are dicts by player: `{"params": {"critic": ..., "generator": ...}, ...}`.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Batch, Mean, Variables
from jaxnets.steps.recipe import TAKEN, Loss, Metrics, Recipe
from jaxnets.steps.state import TrainState
from jaxnets.steps.step import make_train_step


def share_of(variables: Variables, who: str) -> Variables:
    """The variables of one player, as its module takes them."""
    return {name: tree[who] for name, tree in variables.items() if who in tree}


def play(
    recipe: Recipe, who: str, loss: Loss, state: TrainState, batch: Batch, *, turn: Array | int = 0
) -> tuple[TrainState, Metrics]:
    """Run the ordinary training step on one player's part of the state, in one of its turns; the step number is unchanged."""
    own = dataclasses.replace(
        state,
        params=state.params[who],
        opt_state=state.opt_state[who],
        model_state=share_of(state.model_state, who),
    )
    own, metrics = make_train_step(loss, recipe.of(who, turn))(own, batch)
    kept = {
        name: {**tree, who: own.model_state[name]} if who in tree else tree for name, tree in state.model_state.items()
    }
    new = dataclasses.replace(
        state,
        params={**state.params, who: own.params},
        opt_state={**state.opt_state, who: own.opt_state},
        model_state=kept,
        guard=own.guard,
    )
    return new, metrics


def all_or_none(before: TrainState, after: TrainState, turns: Sequence[Metrics]) -> tuple[TrainState, Mean]:
    """The state `after` all turns if every turn was taken, else the state `before`; and the metric `taken` of the step.

    `after` is the state after the last turn. `turns` holds the metrics of each turn (stacked, if a scan made several). The
    guard's counters go up by at most one, for any number of skipped turns.
    """
    taken = jnp.stack([metrics[TAKEN].sum.min() > 0 for metrics in turns]).all()
    refused = {name: after.guard[name] > before.guard[name] for name in ("skipped", "left_out")}
    once = {name: before.guard[name] + flag.astype(jnp.int32) for name, flag in refused.items()}
    fields = ("params", "opt_state", "model_state")
    kept = {
        name: jax.tree.map(lambda a, b: jnp.where(taken, a, b), getattr(after, name), getattr(before, name))
        for name in fields
    }
    state = dataclasses.replace(after, **kept, guard={**after.guard, **once})
    return state, Mean(taken.astype(jnp.float32), jnp.ones(()))
