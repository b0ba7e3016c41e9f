"""Flash attention (Dao et al. 2022): memory grows with the length of a sequence, not with its square.

On a TPU it is a kernel (`attention_kernels.py`) and on a GPU cuDNN's attention, where they take the inputs. Everywhere else it
is computed in blocks (`attention_blocks.py`), with the same values. Shapes are those of that file.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from jaxnets.ops.attention import computes_plainly, dot_product_attention
from jaxnets.ops.attention_blocks import BLOCK, Pairs, as_arrays, block_gradients, block_outputs
from jaxnets.ops.attention_kernels import kernel_gradients, kernel_outputs, kernels_suit
from jaxnets.ops.axes import AXES, axis_size, free_axes, mapped_elsewhere
from jaxnets.ops.beyond_promise import compiled_for
from jaxnets.ops.forward_mode import without_kernels

# The name of what `jax.checkpoint` may store of it, for the policies of `models/layers.py`.
STORED = "flash_attention"


def flash_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    causal: bool = False,
    documents: Array | tuple[Array, Array] | None = None,
    slopes: Array | None = None,
    window: int | None = None,
    block: int | None = None,
) -> Array:
    """Softmax attention that never holds the scores of all pairs.

    Args:
        query: `[B, T, H, K]`, any T.
        key: `[B, S, G, K]`, where G divides H; each is shared by H / G heads of the query.
        value: as `key`.
        causal: whether a position sees itself and those before it only; then S is T.
        documents: `[B, T]`; positions with different numbers do not see each other. Two arrays where keys are not those of
            the queries: `[B, T]` and `[B, S]` (`real_keys` makes them of padding). A query that sees no key gets zeros.
        slopes: `[H]`; minus this times the distance is added to the scores (ALiBi, Press et al. 2022). Not differentiated.
        window: with `causal`, how many positions a query sees, its own included; None: all before it.
        block: compute in blocks of at most so many queries and keys; None: kernels where they suit, else blocks of 512.

    Returns:
        `[B, T, H, K]`, in the dtype of the query; softmax and sums are at least float32. It has derivatives in reverse mode
        only: `jax.jvp` raises `TypeError`. With `jvp` of `ops/forward_mode.py` it is computed plainly.

    Raises:
        ValueError: it is causal, and the queries are not as many as the keys; a window of no position, or without causal.
    """
    if causal and query.shape[1] != key.shape[1]:
        raise ValueError(
            f"causal attention has a key for each query, but there are {query.shape[1]} queries and {key.shape[1]} keys"
        )
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"a window is at least 1 position of causal attention, got {window} with causal={causal}")
    if documents is not None and not isinstance(documents, tuple):
        documents = documents, documents
    pairs = Pairs(causal, documents, slopes, window=window)
    if computes_plainly():
        return dot_product_attention(query, key, value, **as_arrays(pairs, query, key))
    block = block or size_of_blocks()
    if block is None and compiled_for() == "gpu" and (y := _by_cudnn(query, key, value, pairs)) is not None:
        return y
    return _on_each_device(query, key, value, pairs, block)


def size_of_blocks() -> int | None:
    """The `block` of attention that may be a kernel: None, or where it must not be one a number."""
    return BLOCK if without_kernels() else None


def part_outputs(q: Array, k: Array, v: Array, pairs: Pairs, block: int | None = None) -> tuple[Array, Array]:
    """`block_outputs`, by a kernel where `block` is None and one suits."""
    if block is None and kernels_suit(q, k, pairs):
        return kernel_outputs(q, k, v, pairs)
    return block_outputs(q, k, v, pairs, block or BLOCK)


def part_gradients(
    q: Array, k: Array, v: Array, pairs: Pairs, y: Array, sums: Array, dy: Array, block: int | None = None
) -> tuple[Array, Array, Array]:
    """`block_gradients`, by a kernel where `block` is None and one suits."""
    if block is None and kernels_suit(q, k, pairs):
        return kernel_gradients(q, k, v, pairs, y, sums, dy)
    return block_gradients(q, k, v, pairs, y, sums, dy, block or BLOCK)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q: Array, k: Array, v: Array, pairs: Pairs, block: int | None) -> Array:
    return _attend_forward(q, k, v, pairs, block)[0]


def _attend_forward(q: Array, k: Array, v: Array, pairs: Pairs, block: int | None) -> tuple[Array, Any]:
    y, sums = part_outputs(q, k, v, pairs, block)
    y, sums = checkpoint_name(y.astype(q.dtype), STORED), checkpoint_name(sums, STORED)
    return y, (q, k, v, pairs, y, sums)


def _attend_backward(block: int | None, saved: Any, dy: Array) -> tuple[Any, ...]:
    q, k, v, pairs, y, sums = saved
    found = part_gradients(q, k, v, pairs, y, sums, dy, block)
    return (*(a.astype(b.dtype) for a, b in zip(found, (q, k, v), strict=True)), None)


_attend.defvjp(_attend_forward, _attend_backward)


def split_of(query: Array, key: Array) -> tuple[tuple[str, ...], str | None] | None:
    """The axes of the mesh in use over which the rows and the heads of attention are spread, but for those along which
    each device already sees its own part; None where the axes do not divide rows or heads."""
    if mapped_elsewhere():
        return None
    free = free_axes()
    rows = tuple(axis for axis in AXES["batch"] or () if axis in free)
    heads = "tensor" if axis_size("tensor") > 1 and "tensor" in free else None
    fits = query.shape[0] % math.prod(map(axis_size, rows)) == 0 and (
        heads is None or key.shape[2] % axis_size(heads) == 0
    )
    return (rows, heads) if fits else None


def _on_each_device(q: Array, k: Array, v: Array, pairs: Pairs, block: int | None) -> Array:
    """Each device computes its own rows and heads: kernels need that, and no compiler has to find it out."""
    free, split = free_axes(), split_of(q, k)
    several = any(axis_size(axis) > 1 for axis in free)
    # Inside of a `shard_map` the compiler of a TPU takes kernels where no axis is left to it, not even one of one device.
    inside = bool(free and jax.sharding.get_abstract_mesh().manual_axes) and compiled_for() == "tpu"
    if not (several or inside) or split is None:
        return _attend(q, k, v, pairs, block)
    rows, heads = split
    whole = P(rows, None, heads)
    both = None if pairs.documents is None else (P(rows), P(rows))
    slopes = None if pairs.slopes is None else P(heads)
    where = dataclasses.replace(pairs, documents=both, slopes=slopes, offset=P())

    def local(q: Array, k: Array, v: Array, pairs: Pairs) -> Array:
        return _attend(q, k, v, pairs, block)

    specs = (whole, whole, whole, where)
    program = jax.shard_map(local, in_specs=specs, out_specs=whole, axis_names=free, check_vma=False)
    # Under `jit` also where the caller is not: inside of another `shard_map` eager code has no such thing.
    return jax.jit(program)(q, k, v, pairs)


def _by_cudnn(q: Array, k: Array, v: Array, pairs: Pairs) -> Array | None:
    """cuDNN's attention; None for what it does not take."""
    if q.dtype not in (jnp.float16, jnp.bfloat16) or pairs.documents is not None or pairs.slopes is not None:
        return None
    options: Any = {"is_causal": pairs.causal, "implementation": "cudnn"}
    if pairs.window is not None:
        options["local_window_size"] = pairs.window - 1, 0  # before and after a position
    try:
        return jax.nn.dot_product_attention(q, k, v, **options)
    except (NotImplementedError, RuntimeError, ValueError):  # no cuDNN here, or not for this GPU or size of a head
        return None
