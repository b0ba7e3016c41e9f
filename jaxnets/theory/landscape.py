"""The loss as a landscape over the weights: convex in the outputs, not in the weights; kinds of critical points.

Shapes: `P` parameters, `F` hidden units.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxnets.theory.construction import Construction

Kind = Literal["minimum", "maximum", "saddle", "degenerate"]


class CriticalPoint(NamedTuple):
    """The properties of a point from its gradient and Hessian."""

    gradient: float
    """The length of the gradient; 0 at a critical point."""
    eigenvalues: np.ndarray
    """Of the Hessian, in ascending order, `[P]`."""
    kind: Kind
    """See `kind_of`."""


def kind_of(eigenvalues: Sequence[float] | np.ndarray, *, zero: float = 1e-9) -> Kind:
    """The kind of a critical point from the eigenvalues of the Hessian.

    All above 0: a minimum. All below 0: a maximum. Both signs: a saddle, whatever the others are. Otherwise some are 0 and the
    rest have one sign: degenerate, and the Hessian does not decide. `x^2 + y^4` has a minimum there, `x^2 - y^4` a saddle. So
    "else it is a saddle" is wrong.

    Args:
        eigenvalues: `[P]`.
        zero: those up to `zero` times the largest are 0.
    """
    values = np.asarray(eigenvalues, float)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"eigenvalues are at least one number, [P]; got shape {values.shape}")
    least = zero * float(np.abs(values).max())
    above, below = values > least, values < -least
    if above.any() and below.any():
        return "saddle"
    if above.all():
        return "minimum"
    return "maximum" if below.all() else "degenerate"


def critical_point(loss: Callable[[Any], Any], params: Any, *, zero: float = 1e-9) -> CriticalPoint:
    """Classify a point of a loss of few parameters, by its whole Hessian (`P^2` numbers). Use float64 for a clear zero.

    Args:
        loss: params to a number.
        params: a pytree.
        zero: see `kind_of`.
    """
    flat, unravel = ravel_pytree(params)

    def of_flat(vector: jax.Array) -> Any:
        return loss(unravel(vector))

    slope, curvature = jax.jit(lambda vector: (jax.grad(of_flat)(vector), jax.hessian(of_flat)(vector)))(flat)
    hessian = np.asarray(curvature, float)
    eigenvalues = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    return CriticalPoint(float(np.linalg.norm(slope)), eigenvalues, kind_of(eigenvalues, zero=zero))


def permuted(construction: Construction, order: Sequence[int], *, layer: int = 0) -> Construction:
    """The same function with the units of a hidden layer in another order: every network has `F!` copies of itself.

    Args:
        construction: an MLP.
        order: a permutation of the units.
        layer: which hidden layer.
    """
    model, variables = construction
    params = {**variables["params"]}
    hidden = f"hidden_{layer}"
    if hidden not in params or sorted(order) != list(range(params[hidden]["bias"].shape[0])):
        raise ValueError(
            f"order is a permutation of the units of hidden layer {layer}, of {len(params) - 1}; got {list(order)}"
        )
    following = f"hidden_{layer + 1}" if f"hidden_{layer + 1}" in params else "output"
    index = np.asarray(order)
    params[hidden] = {"kernel": params[hidden]["kernel"][:, index], "bias": params[hidden]["bias"][index]}
    params[following] = {**params[following], "kernel": params[following]["kernel"][index]}
    return Construction(model, {"params": params})


def midpoint(a: Construction, b: Construction) -> Construction:
    """The mean of the weights of two networks of one shape.

    If the loss were convex in the weights, it would be no larger there than the mean of both losses. For a network and its
    permuted copy the losses are equal and that of the midpoint is usually much larger.
    """
    mean = jax.tree.map(lambda x, y: (x + y) / 2, a.variables, b.variables)
    return Construction(a.model, mean)


def above_chord(function: Callable[[Any], Any], a: Any, b: Any, *, points: int = 33) -> float:
    """By how much a function rises above its chord between two points: over 0 shows that it is not convex (Jensen).

    Args:
        function: a pytree of arrays to a number.
        a, b: the ends.
        points: how many places between them are looked at.
    """
    ends = float(function(a)), float(function(b))
    gaps = []
    for share in np.linspace(0, 1, points)[1:-1].tolist():
        between = jax.tree.map(lambda x, y, t=share: (1 - t) * x + t * y, a, b)
        gaps.append(float(function(between)) - ((1 - share) * ends[0] + share * ends[1]))
    return max(gaps)


def least_curvature(loss: Callable[[Any], Any], params: Any, *, samples: int, radius: float, seed: int = 0) -> float:
    """The smallest eigenvalue of the Hessian at random points of a ball around `params`.

    A minimum is global if the Hessian is positive semidefinite on the whole (convex) domain. If it holds only at the minimum
    itself, it implies nothing beyond its neighbourhood. A sample can refute convexity; it does not prove it.
    """
    if samples < 1:
        raise ValueError(f"samples is at least 1, got {samples}")
    flat, unravel = ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda vector: loss(unravel(vector))))
    rng = np.random.default_rng(seed)
    least = np.inf
    for _ in range(samples):
        step = rng.normal(size=flat.shape)
        step *= radius * rng.uniform() ** (1 / flat.size) / np.linalg.norm(step)
        least = min(least, float(np.linalg.eigvalsh(np.asarray(hessian(flat + jnp.asarray(step, flat.dtype))))[0]))
    return least
