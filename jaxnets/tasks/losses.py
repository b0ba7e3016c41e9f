"""Losses as pure functions, one number per example, not averaged. Shapes: `B` batch, `C` classes, `T` positions, `V` tokens
of a vocabulary.

Shapes are asserted while tracing: predictions `[B, 1]` and targets `[B]` would silently broadcast to `[B, B]`.
"""

import chex
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.wide import wide


def cross_entropy(logits: Array, labels: Array, *, label_smoothing: float = 0.0) -> Array:
    """Cross entropy in nats, computed from logits so that no probability underflows or overflows.

    Args:
        logits: `[B, C]` of any float dtype; computed in float32.
        labels: `[B]` integers in `[0, C)`, or distributions `[B, K]` over the first K of the C classes, which gives
            `-sum_k labels_k log p_k`; at one-hot distributions it is that of the integers, bit for bit.
        label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016), in [0, 1).

    Returns:
        `[B]` float32.
    """
    chex.assert_rank(logits, 2)
    chex.assert_rank(labels, {1, 2})
    chex.assert_equal_shape_prefix((logits, labels), 1)
    logits = wide(logits)
    log_total = jax.nn.logsumexp(logits, axis=-1)
    if labels.ndim == 1:
        # A one-hot product instead of a gather: its gradient needs no scatter, and both shard over the batch.
        hot = labels[:, None] == jnp.arange(logits.shape[-1])[None, :]
        picked = jnp.where(hot, logits, 0.0).sum(axis=-1)
        loss = log_total - picked
    else:
        # Class numbers [B, 1] are a slip, not distributions.
        chex.assert_type(labels, float)
        chex.assert_axis_dimension_gt(labels, 1, 1)
        known = logits[:, : labels.shape[1]]  # a model may have more outputs than the data have classes
        chex.assert_equal_shape((known, labels))
        loss = (wide(labels) * (log_total[:, None] - known)).sum(axis=-1)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss + label_smoothing * (log_total - logits.mean(axis=-1))
    return loss


def token_cross_entropy(logits: Array, tokens: Array, *, label_smoothing: float = 0.0) -> Array:
    """Cross entropy in nats of each token, by a gather: the product in `cross_entropy` needs as much memory as the logits.

    Args:
        logits: `[B, T, V]` of any float dtype; computed in float32.
        tokens: `[B, T]` integers in `[0, V)`. The loss at other values is meaningless; mask it out.
        label_smoothing: share of the target spread evenly over all tokens, in [0, 1).

    Returns:
        `[B, T]` float32.
    """
    chex.assert_shape(tokens, logits.shape[:-1])
    logits = wide(logits)
    picked = jnp.take_along_axis(logits, jnp.maximum(tokens, 0)[..., None].astype(jnp.int32), axis=-1)[..., 0]
    if label_smoothing:
        picked = (1 - label_smoothing) * picked + label_smoothing * logits.mean(axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - picked


def binary_cross_entropy(logits: Array, labels: Array, *, positive_weight: float = 1.0) -> Array:
    """Binary cross entropy in nats from logits: `-w y log(p) - (1 - y) log(1 - p)` with `p = sigmoid(logit)`.

    Args:
        logits: any shape; computed in float32.
        labels: 0 or 1, same shape.
        positive_weight: `w`, the weight of a label that is 1.
    """
    chex.assert_equal_shape((logits, labels))
    logits, labels = wide(logits), wide(labels)
    return positive_weight * labels * jax.nn.softplus(-logits) + (1 - labels) * jax.nn.softplus(logits)


def squared_error(predictions: Array, targets: Array) -> Array:
    """`(prediction - target)^2`, elementwise, float32, in the squared unit of the targets."""
    chex.assert_equal_shape((predictions, targets))
    return jnp.square(wide(predictions) - wide(targets))


def huber(predictions: Array, targets: Array, *, delta: float = 1.0) -> Array:
    """Huber's loss (1964), elementwise, float32: quadratic up to an error of `delta`, linear beyond."""
    chex.assert_equal_shape((predictions, targets))
    error = jnp.abs(wide(predictions) - wide(targets))
    return jnp.where(error <= delta, 0.5 * error**2, delta * (error - 0.5 * delta))
