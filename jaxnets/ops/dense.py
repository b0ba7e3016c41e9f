"""The matrix product of a dense layer, with a kernel gradient that is fast on the CPU.

The gradient of `x @ kernel` for the kernel is `x.T @ g`. XLA's CPU back end reads the transposed operand by columns. For
batches of the usual size that takes up to twice as long as copying `x.T` to row-major order first. `dot_general` below has
the same values, and its gradient makes that copy where it pays.

On other back ends, and for other products than the last dim of `x` with the first dim of a matrix, it is
`jax.lax.dot_general` unchanged. Pass it to any Linen layer: `nn.Dense(32, dot_general=dot_general)`.
"""

from typing import Any

from jax import Array, lax

from jaxnets.ops.beyond_promise import compiled_for
from jaxnets.ops.bilinear import bilinear

# Sizes of x for which the copy pays, as measured. Below, it costs more than the product; above, more than it saves.
COPY_PAYS = range(2**14, 2**18)


def dot_general(lhs: Array, rhs: Array, dimension_numbers: Any, precision: Any = None, **options: Any) -> Array:
    """A drop-in for `jax.lax.dot_general`, as `flax.linen.Dense` calls it.

    Args:
        lhs: inputs, `[..., N]`.
        rhs: kernel, `[N, F]`.
        dimension_numbers: as in `jax.lax`; other than the last dim with the first takes the plain path.
        precision: as in `jax.lax`; other than None takes the plain path.
        **options: as in `jax.lax`; any that is set takes the plain path.

    Returns:
        `[..., F]`.
    """
    (contracted, other), batched = dimension_numbers
    of_a_dense_layer = (tuple(contracted), tuple(other)) == ((lhs.ndim - 1,), (0,)) and rhs.ndim == 2
    if (
        compiled_for() != "cpu"
        or precision is not None
        or any(value is not None for value in options.values())
        or any(batched)
        or not of_a_dense_layer
        or lhs.size not in COPY_PAYS
    ):
        return lax.dot_general(lhs, rhs, dimension_numbers, precision=precision, **options)
    return _multiply(lhs.reshape(-1, lhs.shape[-1]), rhs).reshape(*lhs.shape[:-1], rhs.shape[1])


def _plain(x: Array, kernel: Array) -> Array:
    return x @ kernel


def _input_gradient(g: Array, x: Any, kernel: Array) -> Array:
    return g @ kernel.T


def _kernel_gradient(g: Array, x: Array, kernel: Any) -> Array:
    # The barrier keeps the compiler from folding the transposition back into the product.
    return lax.optimization_barrier(x.T) @ g


_multiply = bilinear("dense", _plain, left=_input_gradient, right=_kernel_gradient)
