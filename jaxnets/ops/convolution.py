"""Convolution with gradients that are fast inside a loop on the CPU.

XLA's CPU back end has one fast convolution: channels last, kernel `(*window, in, out)`. The gradients that automatic
differentiation writes are convolutions with permuted dimensions. Outside a loop the compiler turns those into the fast
form; inside a `while` body (many training steps in one dispatch) it does not, and they run 20 to 40 times slower, with
other rounding. `conv_general_dilated` below has the same values and writes its gradients in the fast form itself, so a
training step costs the same and gives the same bits inside a loop and outside it. Gradients of gradients (a penalty on a
critic's slope, say) are made of the same two pieces.

On the CPU a depthwise convolution (one window for each channel) is a sum of shifted products. That is slightly faster outside
a loop and about a hundred times faster inside.

On other back ends, for other grouped convolutions and for dilated windows, it is `jax.lax.conv_general_dilated` unchanged.
Pass it to any Linen convolution: `nn.Conv(32, (3, 3), conv_general_dilated=conv_general_dilated)`.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxnets.ops.beyond_promise import compiled_for
from jaxnets.ops.bilinear import bilinear

# Largest product of examples and input channels for which a kernel's gradient is faster as a convolution: up to 5 times if
# both are small. At four times this limit, matrix products are 2.5 times faster. Both hold in float32 and bfloat16.
CONVOLUTION_PAYS = 2**13

Dims = tuple[int, ...]
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
        lhs_dilation: as in `jax.lax`; together with strides it takes the plain path.
        rhs_dilation: as in `jax.lax`; other than 1 takes the plain path.
        dimension_numbers: as in `jax.lax`; other than channels last takes the plain path.
        feature_group_count: as in `jax.lax`; other than 1 or one group for each channel takes the plain path.
        **options: passed to `jax.lax.conv_general_dilated` on the plain path.

    Returns:
        `[B, *spatial_out, F]` in the dtype of `lhs`.
    """
    dims = lhs.ndim - 2
    dilated = any(d != 1 for d in lhs_dilation or ())
    depthwise = feature_group_count > 1 and lhs.shape[-1] == rhs.shape[-1] == feature_group_count
    plain = (
        compiled_for() != "cpu"
        or not (feature_group_count == 1 or (depthwise and not dilated))
        or any(d != 1 for d in rhs_dilation or ())
        or (dilated and (isinstance(padding, str) or any(s != 1 for s in window_strides)))
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
    dilation = tuple(lhs_dilation or (1,) * dims)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:-1], rhs.shape[:dims], window_strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    if depthwise:
        return _depthwise(lhs, rhs, tuple(window_strides), pads)
    return _convolve(lhs, rhs, strides=tuple(window_strides), pads=pads, dilation=dilation)


def _channels_last(lhs: Array, rhs: Array, dimension_numbers: Any) -> bool:
    return lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == _dimension_numbers(lhs.ndim - 2)


def _dimension_numbers(dims: int) -> lax.ConvDimensionNumbers:
    images = (0, dims + 1, *range(1, dims + 1))
    kernel = (dims + 1, dims, *range(dims))
    return lax.ConvDimensionNumbers(images, kernel, images)


def _depthwise(x: Array, kernel: Array, strides: Dims, pads: Pads) -> Array:
    """Depthwise convolution: the sum over offsets in the window of the shifted image times one weight per channel."""
    dims = kernel.ndim - 2
    window = kernel.shape[:dims]
    out = [(n + sum(p) - w) // s + 1 for n, p, w, s in zip(x.shape[1:-1], pads, window, strides, strict=True)]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)])
    # Accumulate in float32.
    total = jnp.zeros((x.shape[0], *out, x.shape[-1]), jnp.promote_types(x.dtype, jnp.float32))
    for offset in itertools.product(*map(range, window)):
        last = [o + (n - 1) * s + 1 for o, n, s in zip(offset, out, strides, strict=True)]
        seen = lax.slice(padded, (0, *offset, 0), (x.shape[0], *last, x.shape[-1]), (1, *strides, 1))
        total = total + seen * kernel[offset].reshape(1, *(1,) * dims, -1)
    return total.astype(x.dtype)


def _plain(x: Array, kernel: Array, *, strides: Dims, pads: Pads, dilation: Dims) -> Array:
    numbers = _dimension_numbers(x.ndim - 2)
    return lax.conv_general_dilated(x, kernel, strides, pads, lhs_dilation=dilation, dimension_numbers=numbers)


def _input_gradient(g: Array, x: Any, kernel: Array, *, strides: Dims, pads: Pads, dilation: Dims) -> Array:
    """The gradient for the input: a convolution of g with the flipped kernel, with strides and dilation swapped."""
    dims = g.ndim - 2
    window, size = kernel.shape[:dims], x.shape[1:-1]
    # Position p of the dilated input contributes to output o at kernel offset p + low - o * stride. This gives the pads.
    low = [w - 1 - p[0] for w, p in zip(window, pads, strict=True)]
    reach = [(o - 1) * s + 1 for o, s in zip(g.shape[1:-1], strides, strict=True)]
    high = [(n - 1) * d + w - lo - r for n, d, w, lo, r in zip(size, dilation, window, low, reach, strict=True)]
    flipped = jnp.flip(kernel, range(dims)).swapaxes(-1, -2)
    return _convolve(g, flipped, strides=dilation, pads=tuple(zip(low, high, strict=True)), dilation=strides)


def _kernel_gradient(g: Array, x: Array, kernel: Any, *, strides: Dims, pads: Pads, dilation: Dims) -> Array:
    dims = g.ndim - 2
    window = kernel.shape[:dims]
    if all(d == 1 for d in dilation):
        return _correlate(x, g, window, strides, pads)
    # A convolution of a dilated x is the transpose of a strided convolution of g. So swap x and g, and flip the result.
    flipped_pads = tuple((w - 1 - low, 0) for w, (low, _) in zip(window, pads, strict=True))
    return jnp.flip(_correlate(g, x, window, dilation, flipped_pads), range(dims)).swapaxes(-1, -2)


def _correlate(x: Array, g: Array, window: Dims, strides: Dims, pads: Pads) -> Array:
    """The gradient for the kernel, `[*window, C, F]`, by the faster form for these shapes."""
    return KERNEL_FORMS[kernel_form(x.shape, window)](x, g, window, strides, pads)


def kernel_form(x: Dims, window: Dims) -> str:
    """The faster of `KERNEL_FORMS` for inputs of this shape; measured by `python -m benchmarks.forms`."""
    return "convolution" if math.prod(window) > 1 and x[0] * x[-1] <= CONVOLUTION_PAYS else "shifted"


def _edges(x: Array, g: Array, window: Dims, strides: Dims, pads: Pads) -> Pads:
    """Pads of x for which the last window ends at the end of x. A negative pad cuts off positions outside all windows."""
    reach = [(o - 1) * s + w for o, s, w in zip(g.shape[1:-1], strides, window, strict=True)]
    return tuple((p[0], r - n - p[0]) for p, r, n in zip(pads, reach, x.shape[1:-1], strict=True))


def _as_convolution(x: Array, g: Array, window: Dims, strides: Dims, pads: Pads) -> Array:
    """One convolution, with examples and channels of x swapped and g as the kernel."""
    dims = x.ndim - 2
    channels_first = x.swapaxes(0, -1)
    kernel = jnp.moveaxis(g, 0, -2)
    edges = _edges(x, g, window, strides, pads)
    numbers = _dimension_numbers(dims)
    out = lax.conv_general_dilated(
        channels_first, kernel, (1,) * dims, edges, rhs_dilation=strides, dimension_numbers=numbers
    )
    return jnp.moveaxis(out, 0, -2)


def _shifted_products(x: Array, g: Array, window: Dims, strides: Dims, pads: Pads) -> Array:
    """One matrix product over all positions and examples for each offset in the window."""
    out = g.shape[1:-1]
    edges = [(low, high, 0) for low, high in _edges(x, g, window, strides, pads)]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    rows = g.reshape(-1, g.shape[-1])
    products = []
    for offset in itertools.product(*map(range, window)):
        start = (0, *offset, 0)
        last = [o + (n - 1) * s + 1 for o, n, s in zip(offset, out, strides, strict=True)]
        seen = lax.slice(padded, start, (x.shape[0], *last, x.shape[-1]), (1, *strides, 1))
        products.append(lax.dot_general(seen.reshape(-1, x.shape[-1]), rows, (((0,), (0,)), ((), ()))))
    return jnp.stack(products).reshape(*window, x.shape[-1], g.shape[-1])


KERNEL_FORMS = {"shifted": _shifted_products, "convolution": _as_convolution}
_convolve = bilinear("convolution", _plain, left=_input_gradient, right=_kernel_gradient)
