"""The health of a network during training: norms of weights, gradients and updates, silent units, the entropy of attention.

It is measured inside the training program at every k-th step; the other steps have no cost. The update of the weights does not
depend on it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.core.typecheck import check_choices
from jaxnets.ops.attention import attention_weights
from jaxnets.ops.beyond_promise import current_trace

# Name of the metric that holds the `Readings` of a step; the loop takes it out.
HEALTH = "health"


@dataclasses.dataclass(frozen=True)
class Health:
    """The measurements of a network during training, and their interval."""

    every: int = 0
    """Steps from one measurement to the next, such as 50; 0: no measurements, and the program is unchanged."""
    inside: Literal["all", "norms"] = "all"
    """norms: of weights, gradients and updates, by layer. all: also silent units and the spread of attention, which take one
    more forward pass of a measured step, and the memory of its attention weights."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.every < 0:
            raise UsageError(f"health.every is a number of steps, or 0 for no measurements; got {self.every}")

    @property
    def active(self) -> bool:
        """Whether anything is measured."""
        return self.every > 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Readings:
    """The measurements of a step, among the step's metrics; a `Mean` of an array."""

    sum: Any
    """float32 `[K]`."""
    weight: Any
    """1 at measured steps, else 0."""
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    """Of the K values."""


def measured(health: Health, step: Array, measure: Callable[[], dict[str, Array]]) -> Readings:
    """The values that `measure` makes, by name; it runs at updates `every`, `2 every`, ... only.

    Args:
        health: how often.
        step: updates done before this one.
        measure: makes the values, float32 scalars.
    """
    names = tuple(sorted(jax.eval_shape(measure)))

    def values() -> Array:
        made = measure()
        return jnp.stack([made[name] for name in names])

    due = (step + 1) % health.every == 0
    # A branch, so that the other steps do not compute it.
    found = jax.lax.cond(due, values, lambda: jnp.zeros(len(names), jnp.float32))
    return Readings(found, due.astype(jnp.float32), names)


def norms(before: Any, after: Any, gradients: Any) -> dict[str, Array]:
    """By layer: norms of the weights before the update, of the gradient and of the update, and update over weights.

    A layer is the path of a parameter without its own name: `hidden_0` for `hidden_0/kernel` and `hidden_0/bias`. float32.
    """
    layers: dict[str, list[Any]] = {}
    leaves = zip(*(jax.tree_util.tree_leaves_with_path(tree) for tree in (before, after, gradients)), strict=True)
    for (path, old), (_, new), (_, gradient) in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        sums = [_squares(old), _squares(new.astype(jnp.float32) - old.astype(jnp.float32)), _squares(gradient)]
        layers.setdefault(name.rpartition("/")[0] or name, []).append(jnp.stack(sums))
    found = {}
    for layer, sums in layers.items():
        weight, update, gradient = jnp.sqrt(sum(sums[1:], sums[0]))
        found[f"weight_norm/{layer}"] = weight
        found[f"gradient_norm/{layer}"] = gradient
        found[f"update_norm/{layer}"] = update
        found[f"update_ratio/{layer}"] = jnp.where(weight > 0, update / jnp.maximum(weight, 1e-30), 0.0)
    return found


def _squares(leaf: Array) -> Array:
    return jnp.square(leaf.astype(jnp.float32)).sum()


def activations(call: Callable[[], Any]) -> dict[str, Array]:
    """Of one call of a model: its silent units by layer, and of each attention the entropy and the largest weight.

    A unit is silent if its potential, the output of a layer with a kernel, is above 0 for no example and no place of the
    batch. With a ReLU right behind it, it is dead for this batch. The layer `output` is left out. The entropy is in nats, the
    mean over examples, heads and places; attentions are numbered in the order of their calls. Layers inside a scan or a
    rematerialised block are left out, because their values do not leave it.

    Args:
        call: runs the model, under a trace or not.
    """
    silent: dict[str, Array] = {}
    here = current_trace()

    def watch(method: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        result = method(*arguments, **keywords)
        module = context.module
        layer = context.method_name == "__call__" and module.path and module.has_variable("params", "kernel")
        if layer and module.path[-1] != "output" and current_trace() == here:
            name = "/".join(module.path)
            if isinstance(result, Array) and result.ndim > 1 and name not in silent:
                silent[name] = (result <= 0).all(axis=tuple(range(result.ndim - 1))).mean(dtype=jnp.float32)
        return result

    with nn.intercept_methods(watch), attention_weights() as seen:
        call()
    found = {f"silent_units/{name}": value for name, value in silent.items()}
    for number, weights in enumerate(seen):
        entropy = -(weights * jnp.log(jnp.maximum(weights, 1e-30))).sum(axis=-1)
        found[f"attention_entropy/{number}"] = entropy.mean()
        found[f"attention_largest/{number}"] = weights.max(axis=-1).mean()
    return found
