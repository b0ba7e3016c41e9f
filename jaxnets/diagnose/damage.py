"""The effect of removing some weights or units of a trained network, and training again with this damage.

A network whose score falls only slowly with the share of removed weights degrades gracefully (McClelland, Rumelhart and Hinton
1986).
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.ops.roles import weights
from jaxnets.parallel.partition import path_name

Kind = Literal["weights", "units"]


def damaged(
    params: Any, share: float, *, seed: int = 0, kind: Kind = "weights", spare: str = r"(^|.*/)output/.*"
) -> tuple[Any, Any]:
    """The parameters with a random part of them set to 0, and the mask: 1 where a number is left, else 0.

    Args:
        params: a tree of arrays.
        share: of the weights of each kernel, or of the units of each layer, rounded; in [0, 1].
        seed: of the choice.
        kind: weights: single numbers of kernels. units: columns of kernels, with their biases.
        spare: a regular expression for whole paths that are not changed; by default the layer `output`, whose units are the
            classes.

    Raises:
        UsageError: the share is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise UsageError(f"share is a part of the weights or units, in [0, 1]; got {share}")
    rng = np.random.default_rng(seed)
    chosen = {path_name(path): flag for path, flag in jax.tree_util.tree_leaves_with_path(weights(params))}
    units: dict[str, np.ndarray] = {}

    def mask_of(path: Any, leaf: Array) -> Array:
        name = path_name(path)
        layer = name.rpartition("/")[0]
        if re.fullmatch(spare, name):
            return jnp.ones_like(leaf)
        if kind == "units":
            if layer not in units and chosen[name]:
                units[layer] = _some(rng, leaf.shape[-1], share)
            left = units.get(layer)
            if left is None or leaf.shape[-1] != left.size:
                return jnp.ones_like(leaf)
            return jnp.asarray(np.broadcast_to(left, leaf.shape), leaf.dtype)
        return (
            jnp.asarray(_some(rng, leaf.size, share).reshape(leaf.shape), leaf.dtype)
            if chosen[name]
            else jnp.ones_like(leaf)
        )

    # Kernels first: they determine the removed units of their layer, and biases follow.
    order = sorted(jax.tree_util.tree_leaves_with_path(params), key=lambda item: not chosen[path_name(item[0])])
    masks = {path_name(path): mask_of(path, leaf) for path, leaf in order}
    mask = jax.tree_util.tree_map_with_path(lambda path, _: masks[path_name(path)], params)
    return jax.tree.map(jnp.multiply, params, mask), mask


def damage_curve(
    score: Callable[[Any], float],
    params: Any,
    shares: Sequence[float],
    *,
    repeats: int = 5,
    seed: int = 0,
    kind: Kind = "weights",
    spare: str = r"(^|.*/)output/.*",
) -> np.ndarray:
    """The score of the damaged network, `[shares, repeats]`; see `damaged` for the arguments.

    Args:
        score: parameters to a number, such as the accuracy on test examples.
        params: of the trained network.
        shares: in [0, 1].
        repeats: random choices for each share.
        seed: of the first choice.
        kind: see `damaged`.
        spare: see `damaged`.
    """
    if repeats < 1:
        raise UsageError(f"repeats is at least 1, got {repeats}")
    found = [
        [
            float(score(damaged(params, share, seed=seed + number, kind=kind, spare=spare)[0]))
            for number in range(repeats)
        ]
        for share in shares
    ]
    return np.asarray(found)


def held_at_zero(optimizer: optax.GradientTransformation, mask: Any) -> optax.GradientTransformation:
    """An optimizer that never changes the numbers whose mask is 0, so that a damaged network learns again with the rest.

    Args:
        optimizer: the optimizer of the others.
        mask: a tree like the parameters, from `damaged`.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(jnp.multiply, updates, mask), state

    return optax.chain(optimizer, optax.GradientTransformation(lambda params: optax.EmptyState(), update))


def _some(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """`[count]` ones, of which a share, rounded, are zeros at random places."""
    left = np.ones(count)
    left[rng.permutation(count)[: round(share * count)]] = 0
    return left
