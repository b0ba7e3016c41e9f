"""Convolution whose gradient is fast inside a loop on the CPU.

XLA's CPU back end has one fast convolution: channels last, kernel `(*window, in, out)`. The gradients that automatic
differentiation writes are convolutions with permuted dimensions. Outside a loop the compiler turns those into the fast
form; inside a `while` body (many training steps in one dispatch) it does not, and they run 20 to 40 times slower, with
other rounding. `conv_general_dilated` below has the same values and writes its gradient in the fast form itself, so a
training step costs the same and gives the same bits inside a loop and outside it.

On other back ends, and for grouped or dilated convolutions, it is `jax.lax.conv_general_dilated` unchanged.
Pass it to any Linen convolution: `nn.Conv(32, (3, 3), conv_general_dilated=conv_general_dilated)`.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Pads = tuple[tuple[int, int], ...]


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **options: Any,
) -> Array:
    """A drop-in for `jax.lax.conv_general_dilated`, as `flax.linen.Conv` calls it.

    Args:
        lhs: images, `[B, *spatial, C]`.
        rhs: kernel, `[*window, C, F]`.
        window_strides: one stride for each spatial dim.
        padding: `"SAME"`, `"VALID"` or (low, high) for each spatial dim.
        lhs_dilation: as in `jax.lax`; other than 1 takes the plain path.
        rhs_dilation: as in `jax.lax`; other than 1 takes the plain path.
        dimension_numbers: as in `jax.lax`; other than channels last takes the plain path.
        feature_group_count: as in `jax.lax`; other than 1 takes the plain path.
        **options: passed to `jax.lax.conv_general_dilated` on the plain path.

    Returns:
        `[B, *spatial_out, F]` in the dtype of `lhs`.
    """
    dims = lhs.ndim - 2
    plain = (
        jax.default_backend() != "cpu"
        or feature_group_count != 1
        or any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        or any(value not in (None, 1) for value in options.values())  # precision, batch groups, ...
        or not _channels_last(lhs, rhs, dimension_numbers)
    )
    if plain:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            **options,
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:-1], rhs.shape[:dims], window_strides, padding)
    return _convolve(lhs, rhs, tuple(window_strides), tuple((int(low), int(high)) for low, high in padding))


def _channels_last(lhs: Array, rhs: Array, dimension_numbers: Any) -> bool:
    return lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == _dimension_numbers(lhs.ndim - 2)


def _dimension_numbers(dims: int) -> lax.ConvDimensionNumbers:
    images = (0, dims + 1, *range(1, dims + 1))
    kernel = (dims + 1, dims, *range(dims))
    return lax.ConvDimensionNumbers(images, kernel, images)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, strides: tuple[int, ...], pads: Pads) -> Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_dimension_numbers(x.ndim - 2))


def _forward(x: Array, kernel: Array, strides: tuple[int, ...], pads: Pads) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, strides, pads), (x, kernel)


def _backward(strides: tuple[int, ...], pads: Pads, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    dims = x.ndim - 2
    window, size, out = kernel.shape[:dims], x.shape[1:-1], g.shape[1:-1]
    numbers = _dimension_numbers(dims)
    # Position p of the input meets output o at kernel offset p + low - o * stride; the pads below follow from that.
    reach = [(o - 1) * s + 1 for o, s in zip(out, strides, strict=True)]
    low = [w - 1 - p[0] for w, p in zip(window, pads, strict=True)]
    high = [n + w - 1 - lo - r for n, w, lo, r in zip(size, window, low, reach, strict=True)]
    flipped = jnp.flip(kernel, range(dims)).swapaxes(-1, -2)
    ones = (1,) * dims
    dx = lax.conv_general_dilated(
        g, flipped, ones, tuple(zip(low, high, strict=True)), lhs_dilation=strides, dimension_numbers=numbers
    )
    return dx, _kernel_gradient(x, g, window, strides, pads)


def _kernel_gradient(x: Array, g: Array, window: tuple[int, ...], strides: tuple[int, ...], pads: Pads) -> Array:
    """`[*window, C, F]`: for each offset in the window, one matrix product over all positions and examples.

    As a convolution this has a window as large as the image, which the CPU back end runs up to four times slower.
    """
    out = g.shape[1:-1]
    # A negative pad cuts off what no window reaches.
    reach = [(o - 1) * s + w for o, s, w in zip(out, strides, window, strict=True)]
    edges = [(p[0], r - n - p[0], 0) for p, r, n in zip(pads, reach, x.shape[1:-1], strict=True)]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    rows = g.reshape(-1, g.shape[-1])
    products = []
    for offset in itertools.product(*map(range, window)):
        start = (0, *offset, 0)
        last = [o + (n - 1) * s + 1 for o, n, s in zip(offset, out, strides, strict=True)]
        seen = lax.slice(padded, start, (x.shape[0], *last, x.shape[-1]), (1, *strides, 1))
        products.append(lax.dot_general(seen.reshape(-1, x.shape[-1]), rows, (((0,), (0,)), ((), ()))))
    return jnp.stack(products).reshape(*window, x.shape[-1], g.shape[-1])


_convolve.defvjp(_forward, _backward)
