"""Attacks by gradients of the inputs: how small a change of an example makes a network wrong.

Shapes: `B` examples, `C` classes.

An attack takes `losses`, a function of the inputs alone to the loss of each example, `[B]`, so it works for any task and
model: `lambda x: optax.softmax_cross_entropy_with_integer_labels(model.apply(variables, x), labels)`. Inputs are prepared,
as the model takes them; sizes are in their unit.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnets.core.errors import UsageError

Losses = Callable[[Array], Array]
Norm = Literal["inf", "2"]
Bounds = tuple[float, float] | None


def fgsm(losses: Losses, inputs: Any, size: float, *, norm: Norm = "inf", bounds: Bounds = None) -> Array:
    """Inputs moved by `size` along the gradient of their loss: the fast gradient sign method (Goodfellow et al. 2015, eq. 1).

    Args:
        losses: inputs `[B, ...]` to the loss of each example, `[B]`.
        inputs: real numbers, `[B, ...]`.
        size: norm of the change of an example, 0 or more.
        norm: inf: each number moves by `size`, by the sign of its gradient; 2: the Euclidean norm, along the gradient.
        bounds: smallest and largest value of an input, if there are any; values beyond are clipped.
    """
    x = _checked(losses, inputs, size)
    return _within(x + size * _steepest(_slopes(losses)(x), norm), bounds)


def pgd(
    losses: Losses,
    inputs: Any,
    size: float,
    *,
    norm: Norm = "inf",
    steps: int = 20,
    step: float | None = None,
    bounds: Bounds = None,
    seed: int = 0,
) -> Array:
    """Inputs at most `size` away with a large loss: projected gradient ascent (Madry et al. 2018).

    It begins at random points of the ball. Each example keeps the point with the largest loss of all steps, or its original
    one if no loss is larger.

    Args:
        losses: inputs `[B, ...]` to the loss of each example, `[B]`.
        inputs: real numbers, `[B, ...]`.
        size: radius of the ball around each example, 0 or more.
        norm: inf: the ball is a cube; 2: that of the Euclidean norm.
        steps: of the ascent, at least 1.
        step: length of one, by the same norm; None: `2.5 size / steps`.
        bounds: least and largest value of an input, where there are any.
        seed: of the starts.
    """
    x = _checked(losses, inputs, size)
    stride = 2.5 * size / max(steps, 1) if step is None else step
    return _ascent(losses, norm, steps, bounds)(x, size, stride, jax.random.key(seed))


def _ascent(losses: Losses, norm: Norm, steps: int, bounds: Bounds) -> Callable[..., Array]:
    """The compiled attack: inputs, radius, stride, key to inputs; attacks of several radii share it."""
    if steps < 1:
        raise UsageError(f"steps is at least 1, got {steps}")

    def attack(x: Array, size: Array, stride: Array, key: Array) -> Array:
        def ascend(state: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
            at, best, reached = state
            at = _within(x + _onto(at + stride * _steepest(_slopes(losses)(at), norm) - x, size, norm), bounds)
            value = losses(at)
            better = _wide(value > reached, x)
            return (at, jnp.where(better, at, best), jnp.maximum(value, reached)), None

        draw = size * jax.random.uniform(key, x.shape, x.dtype, -1, 1)
        begin = _within(x + _onto(draw, size, norm), bounds)
        return jax.lax.scan(ascend, (begin, x, losses(x)), length=steps)[0][1]

    return jax.jit(attack)


def attack_curve(
    outputs: Callable[[Array], Array],
    inputs: Any,
    labels: Any,
    sizes: Sequence[float],
    *,
    norm: Norm = "inf",
    steps: int = 20,
    bounds: Bounds = None,
    seed: int = 0,
) -> np.ndarray:
    """The accuracy of a classifier under `pgd` of each size, `[sizes]`; the attack raises the cross-entropy.

    An upper bound of the accuracy that no attack of this size can break: a stronger attack may find more.

    Args:
        outputs: inputs `[B, ...]` to logits `[B, C]`.
        inputs: real numbers, `[B, ...]`.
        labels: class numbers, `[B]`.
        sizes: radii, 0 or more.
        norm: see `pgd`.
        steps: see `pgd`.
        bounds: see `pgd`.
        seed: see `pgd`.
    """
    truth = jnp.asarray(labels)

    def losses(x: Array) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(outputs(x), truth)

    attack, right = (
        _ascent(losses, norm, steps, bounds),
        jax.jit(lambda x: (outputs(x).argmax(axis=-1) == truth).mean()),
    )
    found = []
    for size in sizes:
        x = _checked(losses, inputs, size)
        found.append(float(right(attack(x, size, 2.5 * size / steps, jax.random.key(seed)))))
    return np.asarray(found)


def input_gradients(losses: Losses, inputs: Any) -> Array:
    """The gradient of each example's loss by its inputs, `[B, ...]`: what a saliency map shows (Simonyan et al. 2014)."""
    return _slopes(losses)(_checked(losses, inputs, 0.0))


def _slopes(losses: Losses) -> Callable[[Array], Array]:
    return jax.jit(jax.grad(lambda x: losses(x).sum()))


def _checked(losses: Losses, inputs: Any, size: float) -> Array:
    x = jnp.asarray(inputs)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UsageError(
            f"attacks move inputs by small steps, so they are real numbers, and these are {x.dtype}; give them prepared, as "
            f"the model takes them (bytes divided by 255, say)"
        )
    if not size >= 0:
        raise UsageError(f"size is the norm of a change, 0 or more; got {size}")
    shape = jax.eval_shape(losses, x).shape
    if shape != x.shape[:1]:
        raise UsageError(f"losses gives the loss of each example, {x.shape[:1]}; got {shape}")
    return x


def _wide(each: Array, like: Array) -> Array:
    """`[B]` as `[B, 1, ...]`, with as many dims as `like`."""
    return each.reshape(each.shape + (1,) * (like.ndim - 1))


def _lengths(x: Array) -> Array:
    return _wide(jnp.sqrt(jnp.square(x).reshape(x.shape[0], -1).sum(axis=1)), x)


def _steepest(slope: Array, norm: Norm) -> Array:
    """The change of norm 1 along which the loss rises most; 0 if the gradient is 0."""
    if norm == "inf":
        return jnp.sign(slope)
    return slope / jnp.maximum(_lengths(slope), jnp.finfo(slope.dtype).tiny)


def _onto(away: Array, size: Array, norm: Norm) -> Array:
    """The nearest change whose norm is at most `size`."""
    if norm == "inf":
        return jnp.clip(away, -size, size)
    return away * jnp.minimum(1, size / jnp.maximum(_lengths(away), jnp.finfo(away.dtype).tiny))


def _within(x: Array, bounds: Bounds) -> Array:
    return x if bounds is None else jnp.clip(x, *bounds)
