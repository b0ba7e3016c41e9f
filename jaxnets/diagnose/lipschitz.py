"""How much outputs can change with inputs: bounds of the Lipschitz constant, in Euclidean norms."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.errors import UsageError


def lipschitz_upper(params: Any, *, activation: float = 1.0) -> float:
    """An upper bound for an MLP: the product of the largest singular values of its kernels (Szegedy et al. 2014, section 4.3).

    Args:
        params: of an MLP without normalisation: matrices `kernel` `[N, F]` and biases.
        activation: the Lipschitz constant of the activation, once for each kernel but the last: 1 for ReLU, tanh, softplus;
            1/4 for the sigmoid; 1.129 for GELU.

    Raises:
        UsageError: there is a parameter that is neither a matrix `kernel` nor a `bias`.
    """
    leaves = leaf_paths(params)
    kernels = [leaf for name, leaf in leaves.items() if name.rpartition("/")[2] == "kernel" and leaf.ndim == 2]
    strange = [
        name
        for name, leaf in leaves.items()
        if (name.rpartition("/")[2], leaf.ndim) not in (("kernel", 2), ("bias", 1))
    ]
    if strange or not kernels:
        raise UsageError(
            f"the bound is for layers with a matrix 'kernel' and a 'bias', one after the other; got "
            f"{', '.join(strange[:4]) or 'no kernel'}"
        )
    norms = [float(jnp.linalg.norm(kernel, 2)) for kernel in kernels]
    return float(np.prod(norms) * activation ** (len(norms) - 1))


def lipschitz_lower(outputs: Callable[[Array], Array], inputs: Any, *, batch: int = 256) -> float:
    """A lower bound: the largest singular value of the Jacobian of the outputs by the inputs, at any of the examples.

    Args:
        outputs: inputs `[B, ...]` to outputs `[B, ...]`, each example by itself.
        inputs: real numbers, `[B, ...]`; with more of them the bound is tighter.
        batch: examples whose Jacobians are in memory at once.
    """
    x = jnp.asarray(inputs)
    if not jnp.issubdtype(x.dtype, jnp.floating) or not len(x):
        raise UsageError(f"inputs are examples of real numbers, got {x.shape} {x.dtype}")

    @jax.jit
    def norms(rows: Array) -> Array:
        slopes = jax.vmap(jax.jacrev(lambda row: outputs(row[None])[0].ravel()))(rows)
        return jnp.linalg.svd(slopes.reshape(*slopes.shape[:2], -1), compute_uv=False)[:, 0]

    return max(float(norms(x[start : start + batch]).max()) for start in range(0, len(x), batch))
