"""Reads an optimizer's state: the current learning rate, the weights to evaluate, and whether the weights moved.

States of Optax are recognised by their fields, at any place in a chain.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from optax import contrib


def _nodes(opt_state: Any, *fields: str) -> list[Any]:
    """The named tuples in a state that have these fields, outermost ones only."""

    def has(node: Any) -> bool:
        return set(fields) <= set(getattr(type(node), "_fields", ()))

    return [node for node in jax.tree.leaves(opt_state, is_leaf=has) if has(node)]


def rates(opt_state: Any) -> dict[str, Array]:
    """The current learning rate according to the state, float32.

    `learning_rate`, if the state has one (`optax.inject_hyperparams`), and `learning_rate_scale`, by which `optim.Plateau`
    multiplies the rate of the optimizer inside it.
    """
    injected, plateaus = _injected(opt_state), _nodes(opt_state, "rate_scale", "inner")
    found = {"learning_rate": jnp.asarray(injected[0], jnp.float32)} if len(injected) == 1 else {}
    if plateaus:
        scale = plateaus[0].rate_scale
        if any(_injected(node.inner) for node in plateaus):
            found = {name: rate * scale for name, rate in found.items()}
        found["learning_rate_scale"] = scale
    return found


def _injected(opt_state: Any) -> list[Any]:
    """The learning rates in states of `optax.inject_hyperparams`."""
    nodes = _nodes(opt_state, "hyperparams", "count")
    return [node.hyperparams["learning_rate"] for node in nodes if "learning_rate" in node.hyperparams]


def moved(opt_state: Any) -> Array:
    """Whether the last update changed the weights: `optax.MultiSteps` changes them only every k-th time."""
    waiting = [node.mini_step for node in _nodes(opt_state, "mini_step", "gradient_step")]
    return jnp.all(jnp.stack([step == 0 for step in waiting])) if waiting else jnp.ones((), bool)


def updates_done(opt_state: Any, batches: Array) -> Array:
    """Updates of the weights so far; without `optax.MultiSteps` there is one for each of `batches`."""
    counts = [node.gradient_step for node in _nodes(opt_state, "mini_step", "gradient_step")]
    return counts[0] if counts else batches


def evaluates_others(opt_state: Any) -> bool:
    """Whether the parameters to evaluate differ from the trained ones (schedule-free)."""
    return bool(_nodes(opt_state, "b1", "weight_sum", "z"))


def evaluation_params(opt_state: Any, params: Any) -> Any:
    """The parameters to evaluate and export: those of a schedule-free optimizer are an average that its state holds."""
    free = _nodes(opt_state, "b1", "weight_sum", "z")
    return jax.jit(contrib.schedule_free_eval_params)(free[0], params) if len(free) == 1 else params
