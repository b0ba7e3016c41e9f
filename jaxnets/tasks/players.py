"""Several players, each with its share of the training state, taking turns with the ordinary step.

Parameters, other collections and optimizer states are dicts by player: `{"params": {"critic": ..., "generator": ...}, ...}`.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxnets.core.types import Batch, Mean, Variables
from jaxnets.steps.state import TrainState
from jaxnets.steps.step import TAKEN, Loss, Metrics, Recipe, make_train_step


def share_of(variables: Variables, who: str) -> Variables:
    """One player's variables, as its own `apply` takes them."""
    return {name: tree[who] for name, tree in variables.items() if who in tree}


def play(recipe: Recipe, who: str, loss: Loss, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """The ordinary training step for one player's share of the state; the step number stays."""
    own = dataclasses.replace(
        state,
        params=state.params[who],
        opt_state=state.opt_state[who],
        model_state=share_of(state.model_state, who),
    )
    own, metrics = make_train_step(loss, recipe)(own, batch)
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
    """The state after all turns if each of them was taken, else that before them; and the mean `taken` of the whole step.

    `after` holds the state after the last turn, `turns` the metrics of each turn (stacked, where a scan made several). However
    many turns were refused, the counters of the guard go up by one.
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
