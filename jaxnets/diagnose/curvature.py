"""The curvature of a loss: products with its Hessian, the largest and smallest eigenvalues, the trace.

The Hessian of a network has as many rows as parameters and is never formed. A product with a vector costs about two gradients
(Pearlmutter 1994). All functions are pure, so parameters may be sharded; the vectors follow them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import UsageError

Loss = Callable[[Any], Array]


def hessian_product(loss: Loss, params: Any, vector: Any) -> Any:
    """`H v`, where `H` holds the second derivatives of the loss at `params`; a tree like `params`, as `vector` is."""
    return jax.jvp(jax.grad(loss), (params,), (vector,))[1]


def lanczos(loss: Loss, params: Any, *, steps: int = 30, seed: int = 0) -> np.ndarray:
    """Ritz values of the Hessian, ascending, `[steps]` or fewer: the outermost are near its extreme eigenvalues.

    Lanczos' method from a random vector, orthogonalised against all vectors before (Golub and Van Loan 2013, 10.3). It ends
    early where the vectors span a space that the Hessian does not leave; the values then are eigenvalues.

    Args:
        loss: parameters to a scalar; smooth, or else its curvature is that of the pieces.
        params: a tree of real arrays.
        steps: products to compute.
        seed: of the first vector.
    """
    if steps < 1:
        raise UsageError(f"steps is at least 1, got {steps}")
    product = jax.jit(lambda params, vector: hessian_product(loss, params, vector))
    vector = _random(params, jax.random.key(seed), jax.random.normal)
    vector = _scaled(vector, 1 / _length(vector))
    basis, diagonal, beside = [vector], list[float](), list[float]()
    for _ in range(steps):
        image = product(params, basis[-1])
        diagonal.append(_dot(image, basis[-1]))
        for _ in range(2):  # the second time takes away what rounding left
            for old in basis:
                image = _plus(image, old, -_dot(image, old))
        length = _length(image)
        # What is left is rounding: the space is complete.
        if length <= 1e-6 * max(map(abs, diagonal + beside)) or len(diagonal) == steps:
            break
        beside.append(length)
        basis.append(_scaled(image, 1 / length))
    count = len(diagonal)
    matrix = np.diag(diagonal) + np.diag(beside[: count - 1], 1) + np.diag(beside[: count - 1], -1)
    return np.linalg.eigvalsh(matrix)


def curvature_range(loss: Loss, params: Any, *, steps: int = 30, seed: int = 0) -> tuple[float, float]:
    """The smallest and the largest eigenvalue of the Hessian, by `lanczos`, from inside: the true ones may be farther apart.

    Gradient descent with a rate over 2 / largest moves away from a minimum.
    """
    values = lanczos(loss, params, steps=steps, seed=seed)
    return float(values[0]), float(values[-1])


def hessian_trace(loss: Loss, params: Any, *, samples: int = 100, seed: int = 0) -> tuple[float, float]:
    """An estimate of the Hessian's trace, and its standard error (Hutchinson 1990): the mean of `v H v` for random signs `v`.

    Args:
        loss: parameters to a scalar.
        params: a tree of real arrays.
        samples: random vectors, at least 2.
        seed: of these.
    """
    if samples < 2:
        raise UsageError(f"samples is at least 2, for the standard error; got {samples}")

    @jax.jit
    def one(key: Array) -> Array:
        signs = _random(params, key, jax.random.rademacher)
        return _inner(signs, hessian_product(loss, params, signs))

    found = np.asarray([float(one(key)) for key in jax.random.split(jax.random.key(seed), samples)])
    return float(found.mean()), float(found.std(ddof=1) / samples**0.5)


def _random(like: Any, key: Array, draw: Any) -> Any:
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [draw(k, leaf.shape).astype(leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def _inner(a: Any, b: Any) -> Array:
    return jnp.stack([(x * y).sum() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]).sum()


def _dot(a: Any, b: Any) -> float:
    return float(_inner(a, b))


def _length(a: Any) -> float:
    return _dot(a, a) ** 0.5


def _scaled(a: Any, factor: float) -> Any:
    return jax.tree.map(lambda x: x * factor, a)


def _plus(a: Any, b: Any, factor: float) -> Any:
    return jax.tree.map(lambda x, y: x + factor * y, a, b)
