"""Operations that each device applies to its own rows, so that gradients of their parameters are summed once per call.

If layers run in a loop over stacked parameters, the compiler sums the gradient of each layer over the devices inside the loop,
and cannot move that sum behind an outer loop over micro-batches. Inside of a `shard_map` a device has the gradient of its own
rows alone, and they are summed where it ends. Without such a loop the sums inside cost nothing more, and can overlap with the
computation of the next layer, so a step declares whether it has one (`summed_later`).

The gradient of a look-up in a table, or of positions, is a sum over rows. Where `data` and `fsdp` both divide these, the
compiler has one sum over both, and makes it for each micro-batch because it is scattered over `fsdp`. Here it is two.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

from jaxnets.ops.axes import axis_size, mapped_elsewhere
from jaxnets.ops.beyond_promise import compiled_for

# Axes along which devices may have the same parameters and other rows.
AXES = ("replica", "data", "fsdp")

# Of what is traced inside of a loop over micro-batches: the axes over which gradients are summed after it.
_LATER: list[tuple[str, ...]] = []


@contextlib.contextmanager
def summed_later(axes: tuple[str, ...]) -> Iterator[None]:
    """In this context gradients are added up over micro-batches, and over these axes of the mesh after the last one."""
    _LATER.append(axes)
    try:
        yield
    finally:
        _LATER.pop()


def own_axes(rows: int) -> tuple[str, ...]:
    """The axes of the mesh in use over which `rows` are spread and parameters are not; () if there are none, and outside of a
    loop over micro-batches."""
    axes = tuple(axis for axis in AXES if axis_size(axis) > 1 and _LATER and axis in _LATER[-1])
    spread = axes and not mapped_elsewhere() and rows % math.prod(map(axis_size, axes)) == 0
    # Inside of another `shard_map` a device has its own rows already.
    return axes if spread and not jax.sharding.get_abstract_mesh().manual_axes else ()


def on_own_rows(
    run: Callable[[Any, Array, Any], Array], params: Any, x: Array, extras: Any = (), *, each: bool = False
) -> Array:
    """The result of `run(params, x, extras)`, which treats each row by itself.

    Args:
        run: of parameters, activations `[B, ...]` and extras `[B, ...]`; it returns activations of the shape of `x`.
        params: a tree of arrays, the same for all rows.
        x: activations `[B, ...]`, or the number of a row without a batch.
        extras: a tree of arrays `[B, ...]`.
        each: whether a device sees its own rows alone along `fsdp` and `expert` too. By default the compiler divides the work
            along these; a look-up in a table it does not divide, but gathers the gradients of all rows.

    Returns:
        `[B, ...]`, as `x`.
    """
    axes = own_axes(x.shape[0]) if x.ndim else ()
    if not axes:
        return run(params, x, extras)
    params, narrow = summed_wide(params)

    def local(params: Any, x: Array, extras: Any) -> Array:
        return run(narrow(params), x, extras)

    program = _mapped(local, axes)
    if each:
        # One inside of the other: the gradient is summed over the inner axes at once, and over the outer ones later.
        inner = tuple(axis for axis in ("fsdp", "expert") if axis not in axes and axis_size(axis) > 1)
        whole = x.shape[0] % math.prod(map(axis_size, axes + inner)) == 0
        program = _mapped(_mapped(local, inner), axes) if inner and whole else program
    # Under `jit` also where the caller is not: a part of the mesh's axes is left to the compiler, which eager code has not.
    return jax.jit(program)(params, x, extras)


def summed_wide(arrays: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Arrays that a `shard_map` sums over devices, or whose gradients it does, and a function that restores their dtypes.

    The compiler of the CPU ends the process where a `shard_map` sums numbers of 16 bits. So for the CPU such arrays become
    float32, which is exact; for other platforms nothing changes.
    """
    dtypes = jax.tree.map(lambda a: a.dtype, arrays)
    if compiled_for() != "cpu":
        return arrays, lambda arrays: arrays
    wide = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype in (jnp.bfloat16, jnp.float16) else a, arrays)
    return wide, lambda arrays: jax.tree.map(lambda a, dtype: a.astype(dtype), arrays, dtypes)


def _mapped(run: Callable[[Any, Array, Any], Array], axes: tuple[str, ...]) -> Callable[[Any, Array, Any], Array]:
    """The function of whole arrays that applies `run` to the rows of each device along these axes."""
    row = P(axes)
    return jax.shard_map(run, in_specs=(P(), row, row), out_specs=row, axis_names={*axes}, check_vma=False)
