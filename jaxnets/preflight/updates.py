"""Updates of the parameters: how large one is, and an optimizer whose updates are multiplied."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array


def change(before: Any, after: Any) -> Array:
    """The relative change of the middle one of the leaves with several dims that are not zero."""
    pairs = [pair for pair in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True) if pair[0].ndim > 1]
    if not pairs:
        return jnp.zeros(())
    sizes = jnp.stack([jnp.linalg.norm(a.ravel()) for a, _ in pairs])
    moved = jnp.stack([jnp.linalg.norm((b - a).ravel()) for a, b in pairs])
    return jnp.nan_to_num(jnp.nanmedian(jnp.where(sizes > 0, moved / sizes, jnp.nan)))


def scaled(optimizer: optax.GradientTransformation, scale: Array) -> optax.GradientTransformation:
    """The optimizer with every update multiplied; its state is the same."""
    inner = optax.with_extra_args_support(optimizer)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        updates, state = inner.update(updates, state, params, **extra)
        return jax.tree.map(lambda u: (u * scale).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)
