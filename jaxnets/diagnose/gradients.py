"""Finds layers with vanishing gradients, and units without gradients."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.errors import UsageError


def gradient_profile(loss: Callable[[Any], Array], params: Any) -> dict[str, float]:
    """The norm of the loss's gradient for each parameter, by path, in the order of the layers' numbers.

    Where it falls by orders of magnitude from the last layers to the first, gradients vanish (Hochreiter 1991, Glorot and
    Bengio 2010): saturating activations, a poor initialisation, or too many layers without residuals or norms.

    Args:
        loss: parameters to a scalar.
        params: a tree of real arrays.
    """
    gradients = jax.jit(jax.grad(loss))(params)
    norms = {
        name: float(jnp.linalg.norm(leaf.astype(jnp.float32).ravel())) for name, leaf in leaf_paths(gradients).items()
    }
    return dict(sorted(norms.items(), key=lambda item: _natural(item[0])))


def dead_units(outputs: Callable[[Any, Any], Array], params: Any, inputs: Any, *, seed: int = 0) -> dict[str, float]:
    """The share of the units of each layer whose weights get no gradient from any example, by path.

    A ReLU unit whose potential is below 0 for every example is dead: its own weights get no gradient, so they cannot recover.
    The gradient of a random combination of all outputs is exactly 0 for its weights and bias, whatever the loss.

    Args:
        outputs: `(params, inputs)` to outputs of any shape, with the examples in the first dim.
        params: a tree of arrays in which a layer has a `kernel`, its units along the last dim, and maybe a `bias`.
        inputs: the examples to use; a few hundred are more reliable than a few.
        seed: of the random combination.

    Raises:
        UsageError: there is no kernel.
    """

    def combined(params: Any) -> Array:
        made = outputs(params, inputs)
        return (made * jax.random.normal(jax.random.key(seed), made.shape, made.dtype)).sum()

    gradients = {name: np.asarray(leaf) for name, leaf in leaf_paths(jax.jit(jax.grad(combined))(params)).items()}
    shares = {}
    for name in sorted(gradients, key=_natural):
        layer, _, last = name.rpartition("/")
        if last != "kernel":
            continue
        kernel = gradients[name]
        alive = (kernel != 0).any(axis=tuple(range(kernel.ndim - 1)))
        bias = gradients.get(f"{layer}/bias")
        if bias is not None and bias.shape[-1:] == alive.shape:
            alive |= (bias != 0).any(axis=tuple(range(bias.ndim - 1)))
        shares[layer] = 1.0 - float(alive.mean())
    if not shares:
        raise UsageError(
            f"dead_units looks at layers with a 'kernel', and the parameters are {', '.join(gradients) or 'none'}"
        )
    return shares


def _natural(name: str) -> list[tuple[int, Any]]:
    """A key that sorts `hidden_2` before `hidden_10`."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part)) if part.isdigit() else (0, part) for part in parts]
