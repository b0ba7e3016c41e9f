"""Changes of the gradient of a whole batch before any optimizer gets it, also the user's own optimizer."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.ops.random import named_keys

# Optax's adaptive clipping knows the units of arrays with so many dims.
MOST_DIMS = 5


@dataclasses.dataclass(frozen=True)
class Gradient:
    """Changes of the gradient, in the order of the fields; by default there are none.

    `clip_norm`, the norm of the whole gradient, is a field of each optimizer, and is applied after these.
    """

    centralize: bool = False
    """Subtract from the gradient of each array with several dims its mean over all but the last dim (Yong et al. 2020)."""
    clip_adaptive: float | None = None
    """Largest norm of the gradient of a unit, as a share of the norm of its weights (Brock et al. 2021); None: no limit.
    A unit is a column of a matrix `[inputs, outputs]`, a channel of a convolution, or a whole vector; arrays with three dims
    are taken for kernels of attention, so that layers stacked in one array are taken together."""
    clip_value: float | None = None
    """Largest magnitude of any number of the gradient; None: no limit."""
    noise: float = 0.0
    """Variance eta of Gaussian noise in step 0; in step t it is `noise / (1 + t) ** noise_decay` (Neelakantan et al. 2015)."""
    noise_decay: float = 0.55
    """How fast the variance of the noise falls (gamma), at least 0."""

    def __post_init__(self) -> None:
        for name in ("clip_value", "clip_adaptive"):
            most = getattr(self, name)
            if most is not None and not 0 < most < math.inf:
                raise UsageError(f"gradient.{name} is positive, or None for no limit; got {most}")
        for name in ("noise", "noise_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"gradient.{name} is at least 0, got {getattr(self, name)}")

    @property
    def active(self) -> bool:
        """Whether anything is changed."""
        return bool(self.centralize or self.clip_value or self.clip_adaptive or self.noise)

    def check(self, params: Any) -> None:
        """Raise `UsageError` if adaptive clipping does not know the units of a parameter."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if self.clip_adaptive and leaf.ndim > MOST_DIMS:
                raise UsageError(
                    f"gradient.clip_adaptive knows the units of arrays of up to {MOST_DIMS} dims, and {_name(path)} has "
                    f"{leaf.ndim}; use gradient.clip_value or the optimizer's clip_norm"
                )

    def apply(self, gradients: Any, params: Any, key: Array, step: Array) -> Any:
        """The changed gradients, a tree like the parameters; pure.

        Args:
            gradients: of the mean loss over the whole batch.
            params: the parameters, which adaptive clipping compares with.
            key: of the noise in this step. The noise of a parameter depends on it and on the path, so not on the devices.
            step: number of the step, for the size of the noise.
        """
        if self.centralize:
            # Optax's `centralize` takes the mean over all dims but the first, which is right for kernels [outputs, inputs].
            gradients = jax.tree.map(_centred, gradients)
        parts = (
            optax.adaptive_grad_clip(self.clip_adaptive) if self.clip_adaptive else None,
            optax.clip(self.clip_value) if self.clip_value else None,
        )
        for part in parts:
            if part is not None:
                gradients, _ = part.update(gradients, part.init(params), params)
        if not self.noise:
            return gradients
        deviation = jnp.sqrt(self.noise / (1.0 + step) ** self.noise_decay)
        return add_normal(gradients, key, deviation)


def _centred(gradient: Array) -> Array:
    dims = tuple(range(gradient.ndim - 1))
    return gradient - gradient.mean(axis=dims, keepdims=True) if dims else gradient


def add_normal(tree: Any, key: Array, deviation: Array | float, chosen: Any = None) -> Any:
    """A tree of arrays with independent Gaussian noise, drawn by `key` and by the path of each array.

    Args:
        tree: arrays.
        key: of the noise.
        deviation: its standard deviation.
        chosen: which arrays get noise, as a tree of bools; None: all.
    """
    keys = named_keys(key, (_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)))

    def noisy(path: Any, leaf: Array, included: bool) -> Array:
        noise = jax.random.normal(keys[_name(path)], leaf.shape, jnp.float32)
        return leaf + (deviation * noise).astype(leaf.dtype) if included else leaf

    chosen = jax.tree.map(lambda _: True, tree) if chosen is None else chosen
    return jax.tree_util.tree_map_with_path(noisy, tree, chosen)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
