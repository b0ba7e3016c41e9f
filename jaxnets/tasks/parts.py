"""Several modules trained together, and a network that slowly follows another one (an average with momentum).

The variables of the modules are dicts by name: `{"params": {"encoder": ..., "projector": ...}, ...}`, as in `players.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Batch, Variables
from jaxnets.core.wide import wide
from jaxnets.steps.recipe import TAKEN, Metrics, Step
from jaxnets.steps.state import TrainState
from jaxnets.tasks.calls import call_model, init_model
from jaxnets.tasks.players import share_of


def init_parts(key: Array, parts: Mapping[str, tuple[nn.Module, Any]]) -> Variables:
    """Initial variables of modules by name, each given with an input (of which only the shape is used)."""
    found: Variables = {"params": {}}
    for number, (name, (module, given)) in enumerate(parts.items()):
        for collection, tree in init_model(module, jax.random.fold_in(key, number), given).items():
            found.setdefault(collection, {})[name] = tree
    return found


def call_part(
    module: nn.Module, variables: Variables, name: str, given: Any, key: Array | None
) -> tuple[Any, Variables]:
    """One module's outputs in float32, and all collections but the parameters; called in training if there is a key."""
    outputs, new = call_model(module, share_of(variables, name), given, key=key)
    others = {collection: tree for collection, tree in variables.items() if collection != "params"}
    for collection, tree in new.items():
        if collection != "params":
            others[collection] = {**others.get(collection, {}), name: tree}
    return wide(outputs), others


def with_follower(
    step: Step,
    collection: str,
    followed: Callable[[Variables], Variables],
    momentum: float | Callable[[Array], Array],
) -> Step:
    """A step after which a collection follows other variables: `momentum` times itself plus `1 - momentum` times these.

    Args:
        step: a task's step; if it was not taken, the collection does not change.
        collection: the name of the follower among the model's collections.
        followed: picks from the variables a tree with the structure of the collection.
        momentum: in [0, 1], or a function of the number of the step. Whole
            numbers are copied.
    """

    def moved(share: float | Array, old: Array, new: Array) -> Array:
        return share * old + (1 - share) * new if jnp.issubdtype(old.dtype, jnp.inexact) else new

    def step_and_follow(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new, metrics = step(state, batch)
        taken = metrics[TAKEN].sum > 0
        old, share = state.model_state[collection], momentum(state.step) if callable(momentum) else momentum
        after = jax.tree.map(lambda a, b: jnp.where(taken, moved(share, a, b), a), old, followed(new.variables))
        return dataclasses.replace(new, model_state={**new.model_state, collection: after}), metrics

    return step_and_follow
