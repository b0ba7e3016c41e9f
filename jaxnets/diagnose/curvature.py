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
from jaxnets.diagnose.trees import inner, length, plus, random_like, rows_of_zeros, scaled
from jaxnets.ops.forward_mode import jvp, jvp_of_gradient

Loss = Callable[[Any], Array]
# The compiled function of `lanczos_step`: parameters, vectors so far, number -> vectors, diagonal, length of the next.
Step = Callable[[Any, Any, int], tuple[Any, Array, Array]]


def hessian_product(loss: Loss, params: Any, vector: Any) -> Any:
    """`H v`, where `H` holds the second derivatives of the loss at `params`; a tree like `params`, as `vector` is."""
    return jvp_of_gradient(loss, params, vector)


def lanczos_step(loss: Loss) -> Step:
    """One step of Lanczos' method for the Hessian of a loss, compiled; several calls of `tridiagonal` share it."""

    def step(params: Any, basis: Any, number: int) -> tuple[Any, Array, Array]:
        newest = jax.tree.map(lambda rows: rows[number], basis)
        image = hessian_product(loss, params, newest)
        diagonal = inner(image, newest)
        image = _across(_across(image, basis), basis)  # the second time removes rounding errors
        long = length(image)
        following = scaled(image, 1 / jnp.where(long > 0, long, 1))
        return jax.tree.map(lambda rows, x: rows.at[number + 1].set(x), basis, following), diagonal, long

    return jax.jit(step, donate_argnums=1)


def _across(image: Any, basis: Any) -> Any:
    """The part of a tree that is orthogonal to all rows of a basis."""
    shares = jax.tree.map(lambda rows, x: jnp.tensordot(rows, x, x.ndim), basis, image)
    total = jnp.stack(jax.tree.leaves(shares)).sum(axis=0)
    return jax.tree.map(lambda x, rows: x - jnp.tensordot(total, rows, 1), image, basis)


def tridiagonal(step: Step, params: Any, *, steps: int, seed: int) -> np.ndarray:
    """The Hessian in the space that `steps` products span from a random vector of length 1, `[steps, steps]` or smaller.

    Each vector is orthogonalised against all before (Golub and Van Loan 2013, 10.3). It ends early where the vectors span a
    space that the Hessian does not leave; the eigenvalues of the result then are eigenvalues of the Hessian.
    """
    if steps < 1:
        raise UsageError(f"steps is at least 1, got {steps}")
    first = random_like(params, jax.random.key(seed), jax.random.normal)
    first = scaled(first, 1 / length(first))
    # One row more than vectors are used: where the last step writes the vector that comes after it.
    basis = jax.tree.map(lambda rows, x: rows.at[0].set(x), rows_of_zeros(params, steps + 1), first)
    diagonal, beside = list[float](), list[float]()
    while True:
        basis, entry, long = step(params, basis, len(diagonal))
        diagonal.append(float(entry))
        # The rest is rounding error: the space is complete.
        if float(long) <= 1e-6 * max(map(abs, diagonal + beside)) or len(diagonal) == steps:
            break
        beside.append(float(long))
    count = len(diagonal)
    return np.diag(diagonal) + np.diag(beside[: count - 1], 1) + np.diag(beside[: count - 1], -1)


def lanczos(loss: Loss, params: Any, *, steps: int = 30, seed: int = 0) -> np.ndarray:
    """Ritz values of the Hessian, ascending, `[steps]` or fewer: the outermost are near its extreme eigenvalues.

    See `tridiagonal` for the method.

    Args:
        loss: parameters to a scalar; smooth, or else its curvature is that of the pieces.
        params: a tree of real arrays.
        steps: products to compute; each keeps a vector as large as the parameters.
        seed: of the first vector.
    """
    return np.linalg.eigvalsh(tridiagonal(lanczos_step(loss), params, steps=steps, seed=seed))


def curvature_range(loss: Loss, params: Any, *, steps: int = 30, seed: int = 0) -> tuple[float, float]:
    """The smallest and the largest eigenvalue of the Hessian, by `lanczos`, from inside: the true ones may be farther apart.

    Gradient descent with a rate above 2 / largest diverges from a minimum.
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
    def one(params: Any, key: Array) -> Array:
        signs = random_like(params, key, jax.random.rademacher)
        return inner(signs, hessian_product(loss, params, signs))

    found = np.asarray([float(one(params, key)) for key in jax.random.split(jax.random.key(seed), samples)])
    return float(found.mean()), float(found.std(ddof=1) / samples**0.5)


def gauss_newton_product(outputs: Callable[[Any], Any], loss_of_outputs: Loss, params: Any, vector: Any) -> Any:
    """`J^T H J v`: `J` is the Jacobian of the outputs at `params`, `H` the Hessian of the loss by the outputs.

    It is the part of the Hessian that the curvature of the outputs does not enter (Schraudolph 2002). It is positive
    semidefinite where the loss is convex in the outputs, as squared error and cross-entropy are.

    Args:
        outputs: parameters to outputs, an array or a tree.
        loss_of_outputs: outputs to a scalar.
        params: a tree of real arrays.
        vector: a tree like `params`.
    """
    made, backward = jax.vjp(outputs, params)
    tangent = jvp(outputs, params, vector)[1]
    return backward(hessian_product(loss_of_outputs, made, tangent))[0]


def linearised(outputs: Callable[[Any], Any], params: Any) -> Callable[[Any], Any]:
    """The outputs as a linear function of the parameters, with the values and slopes that they have at `params`.

    The Hessian of a loss of these outputs is the Gauss-Newton matrix, so `lanczos`, `hessian_trace` and `spectral_density`
    look at that matrix: `lanczos(lambda p: loss(linear(p)), params)` with `linear = linearised(outputs, params)`.
    """

    def linear(at: Any) -> Any:
        made, moved = jvp(outputs, params, plus(at, params, -1.0))
        return jax.tree.map(jnp.add, made, moved)

    return linear


def fisher_product(logits: Callable[[Any], Array], params: Any, vector: Any) -> Any:
    """`F v`, with the Fisher information of a classifier: the mean of `g g^T` where labels are drawn from its own answers.

    `g` is the gradient of one example's negative log-likelihood. The expectation over labels is exact. It equals the
    Gauss-Newton matrix of the mean softmax cross-entropy (Martens 2020), for any labels.

    Args:
        logits: parameters to logits `[..., C]`; the mean is over all dims but the last.
        params: a tree of real arrays.
        vector: a tree like `params`.
    """
    made, backward = jax.vjp(logits, params)
    tangent = jvp(logits, params, vector)[1]
    share = jax.nn.softmax(made)
    # The covariance of a one-hot label with these probabilities, times the tangent.
    covered = share * (tangent - (share * tangent).sum(axis=-1, keepdims=True))
    return backward(covered * (made.shape[-1] / made.size))[0]


def empirical_fisher_product(losses: Callable[[Any], Array], params: Any, vector: Any) -> Any:
    """The mean of `g (g . v)` over the examples, where `g` is the gradient of one example's loss with its given label.

    It is not the Fisher information, whose labels come from the model (Kunstner et al. 2019).

    Args:
        losses: parameters to the loss of each example, `[B]`.
        params: a tree of real arrays.
        vector: a tree like `params`.
    """
    made, backward = jax.vjp(losses, params)
    along = jvp(losses, params, vector)[1]
    return backward(along / made.size)[0]
