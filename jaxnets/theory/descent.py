"""Gradient descent on a quadratic: which step sizes converge, and how noisy the gradient of a batch is.

Shapes: `P` parameters, `E` examples.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnets.theory.landscape import critical_point


def largest_rate(loss: Callable[[Any], Any], params: Any) -> float:
    """`2 / lambda_max` of the Hessian at `params`: gradient descent converges to a minimum below this rate and diverges above
    it.

    Along an eigenvector each step multiplies the distance by `1 - rate * lambda`. On a quadratic that holds everywhere;
    elsewhere near the minimum.

    Raises:
        ValueError: no eigenvalue is above 0.
    """
    largest = float(critical_point(loss, params).eigenvalues[-1])
    if not largest > 0:
        raise ValueError(
            f"a step size has a limit where the loss curves upwards; the largest eigenvalue is {largest:.3g}"
        )
    return 2 / largest


def descend(loss: Callable[[Any], Any], start: Any, *, rate: float, steps: int) -> np.ndarray:
    """The losses of gradient descent, the first before any step, float `[steps + 1]`; one compiled loop."""
    if steps < 1:
        raise ValueError(f"steps is at least 1, got {steps}")

    def step(params: Any, _: None) -> tuple[Any, Any]:
        value, gradient = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, gradient), value

    end, values = jax.jit(lambda params: jax.lax.scan(step, params, length=steps))(start)
    return np.append(np.asarray(values), np.asarray(loss(end)))


def gradient_variance(
    example_loss: Callable[[Any, Any], Any],
    params: Any,
    examples: Any,
    batch_size: int,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> float:
    """The variance of the gradient of a batch drawn with replacement, summed over the parameters. It falls with `1 /
    batch_size`.

    Args:
        example_loss: `(params, example)` to a number; the loss is its mean.
        params: where.
        examples: arrays with a leading dim `E`.
        batch_size: examples in a batch.
        draws: batches.
        seed: of the draws.
    """
    if batch_size < 1 or draws < 2:
        raise ValueError(f"batch_size is at least 1 and draws at least 2, got {batch_size} and {draws}")
    gradients = jax.vmap(jax.grad(example_loss), in_axes=(None, 0))(params, examples)
    flat = np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(gradients)], axis=1)
    rows = np.random.default_rng(seed).integers(0, len(flat), (draws, batch_size))
    return float(flat[rows].mean(axis=1).var(axis=0).sum())
