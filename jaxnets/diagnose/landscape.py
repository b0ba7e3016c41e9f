"""A point of a loss: its kind, how far the loss rises nearby, whether gradient descent is stable there."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.diagnose.curvature import Loss, curvature_range, lanczos_step, tridiagonal
from jaxnets.diagnose.trees import length, plus, random_like, scaled

Kind = Literal["minimum", "maximum", "saddle", "degenerate", "not critical"]


class CriticalPoint(NamedTuple):
    """The properties of a point from its gradient and the ends of the Hessian's spectrum."""

    gradient: float
    """The norm of the gradient."""
    eigenvalues: tuple[float, float]
    """The smallest and the largest eigenvalue of the Hessian, by `curvature_range`."""
    kind: Kind
    """See `critical_point`."""


def critical_point(
    loss: Loss,
    params: Any,
    *,
    steps: int = 40,
    seed: int = 0,
    tolerance: float | None = None,
    zero: float | None = None,
) -> CriticalPoint:
    """Classify a point of a loss of any number of parameters, by its gradient and the extreme eigenvalues of its Hessian.

    Both eigenvalues above 0: a minimum. Both below 0: a maximum. Both signs: a saddle. Otherwise one is 0: degenerate, and
    second derivatives do not decide (`x^2 + y^4` has a minimum at 0, `x^2 - y^4` a saddle). Lanczos' method comes to the
    extreme eigenvalues from inside, so with fewer steps than parameters a "minimum" may have a small negative eigenvalue that
    was not found. Use float64 for a clear zero.

    Args:
        loss: parameters to a scalar, smooth.
        params: a tree of real arrays; may be sharded.
        steps: of Lanczos' method.
        seed: of its first vector.
        tolerance: not critical where the gradient's norm is over `tolerance` times the largest absolute eigenvalue times
            (1 + norm of the parameters): a step of that relative length would be needed to take the gradient away. None: the
            square root of the precision of the parameters' dtype.
        zero: eigenvalues up to `zero` times the largest absolute one are 0. None: likewise.
    """
    dtype = jnp.result_type(*jax.tree.leaves(params))
    rounding = float(jnp.finfo(dtype).eps) ** 0.5
    tolerance, zero = (rounding if given is None else given for given in (tolerance, zero))
    slope = float(length(jax.jit(jax.grad(loss))(params)))
    low, high = curvature_range(loss, params, steps=steps, seed=seed)
    most = max(abs(low), abs(high))
    if slope > tolerance * most * (1 + float(length(params))):
        return CriticalPoint(slope, (low, high), "not critical")
    least = zero * most
    kind: Kind = "degenerate"
    if low < -least and high > least:
        kind = "saddle"
    elif low > least:
        kind = "minimum"
    elif high < -least:
        kind = "maximum"
    return CriticalPoint(slope, (low, high), kind)


def sharpness(loss: Loss, params: Any, rho: float, *, steps: int = 30, starts: int = 2, seed: int = 0) -> float:
    """How far the loss rises within a ball: its largest value at most `rho` away in Euclidean norm, minus that at `params`.

    Found by ascent along the normalised gradient, projected onto the ball, from random points of its surface; so it is a lower
    bound. At a minimum it is near `rho^2 / 2` times the largest eigenvalue of the Hessian (Foret et al. 2021).

    Args:
        loss: parameters to a scalar.
        params: a tree of real arrays; may be sharded.
        rho: radius of the ball.
        steps: of the ascent.
        starts: random starts; the best counts.
        seed: of these.
    """
    if rho <= 0 or steps < 1 or starts < 1:
        raise UsageError(f"rho is above 0, steps and starts at least 1; got {rho}, {steps} and {starts}")

    @jax.jit
    def highest(params: Any, key: Array) -> Array:
        def onto(away: Any) -> Any:
            return scaled(away, rho / jnp.maximum(length(away), jnp.finfo(jnp.float32).tiny))

        def inside(away: Any) -> Any:
            return jax.tree.map(lambda on, x: jnp.where(length(away) > rho, on, x), onto(away), away)

        def ascend(state: tuple[Any, Array], _: None) -> tuple[tuple[Any, Array], None]:
            away, best = state
            value, slope = jax.value_and_grad(loss)(plus(params, away))
            return (inside(plus(away, onto(slope), 0.5)), jnp.maximum(best, value)), None

        begin = onto(random_like(params, key, jax.random.normal))
        (away, best), _ = jax.lax.scan(ascend, (begin, loss(params)), length=steps)
        return jnp.maximum(best, loss(plus(params, away))) - loss(params)

    return max(float(highest(params, key)) for key in jax.random.split(jax.random.key(seed), starts))


def stability(
    loss: Loss, trees: Iterable[Any], rates: Sequence[float] | float, *, steps: int = 20, seed: int = 0
) -> np.ndarray:
    """The learning rate times the largest eigenvalue of the Hessian at each of some points of a training, `[points]`.

    Above 2, plain gradient descent diverges from a quadratic minimum of this curvature. Training on the whole batch raises
    the product to about 2 and stays there, at the edge of stability (Cohen et al. 2021); with momentum `b` the edge is at
    `2 + 2 b`.

    Args:
        loss: parameters to the scalar that the training minimises, over all its examples.
        trees: parameters after some steps, as a callback or the checkpoints of a run give them.
        rates: the learning rate at each of them, or one for all.
        steps: of Lanczos' method, at each.
        seed: of its first vector.
    """
    step = lanczos_step(loss)
    largest = [np.linalg.eigvalsh(tridiagonal(step, params, steps=steps, seed=seed))[-1] for params in trees]
    each = np.broadcast_to(np.asarray(rates, float), len(largest)) if np.ndim(rates) == 0 else np.asarray(rates, float)
    if len(each) != len(largest):
        raise UsageError(f"rates has a rate for each point; got {len(each)} rates and {len(largest)} points")
    return each * np.asarray(largest)
