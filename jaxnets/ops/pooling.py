"""Pooling: max and average pooling over windows that do not overlap, and blur pooling.

The general form of the maximum, `jax.lax.reduce_window`, has a gradient (select-and-scatter) that is 4 to 20 times slower
on the CPU than the comparisons below. Values and gradients are equal: the first of equal elements gets the gradient.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array


def max_pool(x: Array, window: tuple[int, int] = (2, 2)) -> Array:
    """The maximum of each window of an image, stride equal to the window; incomplete windows are dropped.

    Args:
        x: `[B, H, W, C]`.
        window: height and width of a window, in pixels.

    Returns:
        `[B, H // height, W // width, C]`, the dtype of `x`.
    """
    height, width = window
    B, H, W, C = x.shape
    x = x[:, : H // height * height, : W // width * width]
    columns = x.reshape(B, x.shape[1], W // width, width, C)
    x = functools.reduce(_larger, [columns[:, :, :, i] for i in range(width)])
    rows = x.reshape(B, H // height, height, W // width, C)
    return functools.reduce(_larger, [rows[:, :, i] for i in range(height)])


def _larger(a: Array, b: Array) -> Array:
    """The larger of two, the first if they are equal, NaN if either is.

    `jnp.max` sends its gradient to the elements that equal the maximum. If the compiler computes them twice with different
    rounding, no element is equal, and the gradient is 0 / 0. `jnp.where` always selects one of the two.
    """
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def max_pool_reference(x: Array, window: tuple[int, int] = (2, 2)) -> Array:
    """The same through `jax.lax.reduce_window`; tests compare the two."""
    return nn.max_pool(x, window, strides=window)


def average_pool(x: Array, window: int = 2) -> Array:
    """The mean of each window, stride equal to the window: `[B, H, W, C]` to `[B, H / window, W / window, C]`."""
    if window == 1:
        return x
    B, H, W, C = x.shape
    if H % window or W % window:
        raise ValueError(f"average_pool needs sides divisible by {window}, got {H}x{W} pixels; cut or pad the image")
    return x.reshape(B, H // window, window, W // window, window, C).mean(axis=(2, 4))


def blur_pool(x: Array) -> Array:
    """Every second pixel after a blur, which avoids aliasing.

    The window is the outer product of 1/4, 1/2, 1/4 with itself; edges are mirrored (Zhang 2019, "Making convolutional
    networks shift-invariant again").

    Args:
        x: `[B, H, W, C]`, H and W at least 2.

    Returns:
        `[B, ceil(H / 2), ceil(W / 2), C]`, the dtype of `x`.
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    rows, columns = x.shape[1] - 2, x.shape[2] - 2
    x = (x[:, 0:rows:2] + 2 * x[:, 1 : rows + 1 : 2] + x[:, 2 : rows + 2 : 2]) / 4
    return (x[:, :, 0:columns:2] + 2 * x[:, :, 1 : columns + 1 : 2] + x[:, :, 2 : columns + 2 : 2]) / 4
