"""Several players, each with its share of the training state, taking turns with the ordinary step.

Parameters, other collections and optimizer states are dicts by player: `{"params": {"critic": ..., "generator": ...}, ...}`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.core.types import Batch, Mean, Variables
from jaxnets.tasks.base import Recipe


def share_of(variables: Variables, who: str) -> Variables:
    """One player's variables, as its own `apply` takes them."""
    return {name: tree[who] for name, tree in variables.items() if who in tree}


def play(recipe: Recipe, who: str, loss: Any, state: Any, batch: Batch) -> tuple[Any, dict[str, Mean]]:
    """The ordinary training step for one player's share of the state; the step number stays."""
    own = dataclasses.replace(
        state,
        params=state.params[who],
        opt_state=state.opt_state[who],
        model_state=share_of(state.model_state, who),
    )
    own, metrics = recipe.train_step(loss)(own, batch)
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


def settle(before: Any, after: Any) -> Any:
    """The state after all turns; that before them, save for the counters, where any was refused or left out."""
    counters = ("skipped", "left_out")
    refused = {name: after.guard[name] > before.guard[name] for name in counters}
    taken = ~(refused["skipped"] | refused["left_out"])
    once = {name: before.guard[name] + flag.astype(jnp.int32) for name, flag in refused.items()}
    fields = ("params", "opt_state", "model_state")
    kept = {
        name: jax.tree.map(lambda a, b: jnp.where(taken, a, b), getattr(after, name), getattr(before, name))
        for name in fields
    }
    return dataclasses.replace(after, **kept, guard={**after.guard, **once})
