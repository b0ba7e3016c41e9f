"""Attention over sequences that several devices hold in parts, along the mesh axis `sequence`.

Two ways, with the result of attention on one device:

- `ring` (Liu et al. 2023): each device keeps its queries, and the keys and values travel around the devices. The outputs for
  each part are added up by their log-sum-exp, so no device ever holds more than its part. The backward pass goes around once
  more. What comes after all queries of a causal device is not computed.
- `heads` (Jacobs et al. 2023, "Ulysses"): an all-to-all gives each device the whole sequence of some of the heads, and one
  back. Its number of heads must be divisible by the devices.

With `flash` neither holds the scores of all pairs of its parts (`flash_attention.py`). Masks are given by what makes them
(causal, documents, slopes of a bias), never as arrays of all pairs.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from jaxnets.ops.attention import computes_plainly, dot_product_attention
from jaxnets.ops.attention_blocks import LEAST, Pairs, added, as_arrays
from jaxnets.ops.axes import AXES, axis_size, free_axes
from jaxnets.ops.flash_attention import (
    STORED,
    flash_attention,
    part_gradients,
    part_outputs,
    size_of_blocks,
    split_of,
)

AXIS = "sequence"
By = Literal["ring", "heads"]


def split_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    by: By = "ring",
    causal: bool = False,
    documents: Array | None = None,
    slopes: Array | None = None,
    flash: bool = False,
) -> Array:
    """Softmax attention of a sequence whose positions are spread over the mesh axis `sequence`.

    Args:
        query: `[B, T, H, K]`, any T; it is filled up until the devices divide it.
        key: `[B, T, G, K]`, where G divides H; each is shared by H / G heads of the query.
        value: as `key`.
        by: ring or heads.
        causal: whether a position sees itself and those before it only.
        documents: `[B, T]`; positions with different numbers do not see each other.
        slopes: `[H]`; minus this times the distance is added to the scores (ALiBi, Press et al. 2022). Not differentiated.
        flash: whether scores are computed in blocks, or by kernels; else those of a whole part are held at once.

    Returns:
        `[B, T, H, K]`, in the dtype of the query; softmax and sums are float32. Its derivatives are those of flash attention;
        where it is computed plainly, the compiler divides whole sequences.

    Raises:
        ValueError: the devices do not divide the heads where `by` is heads.
    """
    if computes_plainly():
        both = None if documents is None else (documents, documents)
        return dot_product_attention(query, key, value, **as_arrays(Pairs(causal, both, slopes), query, key))
    devices, length = axis_size(AXIS), query.shape[1]
    if by == "heads" and (query.shape[2] % devices or key.shape[2] % devices):
        raise ValueError(
            f"attention by heads gives each of {devices} devices some of the heads, but there are {query.shape[2]} of the "
            f"query and {key.shape[2]} of the key; use ring, or another mesh.sequence"
        )
    missing = -length % devices
    # Filled-up positions belong to a document of their own, so no other position sees them.
    if missing or documents is not None:
        documents = jnp.zeros(query.shape[:2], jnp.int32) if documents is None else documents.astype(jnp.int32)
    if missing:
        query, key, value = (jnp.pad(a, ((0, 0), (0, missing), (0, 0), (0, 0))) for a in (query, key, value))
        documents = None if documents is None else jnp.pad(documents, ((0, 0), (0, missing)), constant_values=-1)
    run = _by_ring if by == "ring" else _by_heads
    spread = split_of(query, key) if flash else None
    if spread is not None and by == "heads" and key.shape[2] // axis_size(spread[1] or "") % devices:
        spread = None
    # Kernels need every axis of the mesh; without them the compiler spreads rows and heads.
    axes, (of_rows, of_heads) = ({AXIS}, ((), None)) if spread is None else (free_axes() | {AXIS}, spread)

    def local(q: Array, k: Array, v: Array, d: Array | None, s: Array | None) -> Array:
        return run(q, k, v, d, s, causal, flash)

    parts, rows = P(of_rows, AXIS, of_heads), None if documents is None else P(of_rows, AXIS)
    specs = parts, parts, parts, rows, None if slopes is None else P(of_heads)
    split = jax.shard_map(local, in_specs=specs, out_specs=parts, axis_names=axes, check_vma=False)
    # Under `jit` also where the caller is not: a part of the mesh's axes is left to the compiler, which eager code has not.
    return jax.jit(split)(query, key, value, documents, slopes)[:, :length]


def can_split() -> bool:
    """Whether the mesh in use splits sequences."""
    return axis_size(AXIS) > 1 and AXES["length"] == (AXIS,)


def _by_heads(
    q: Array, k: Array, v: Array, documents: Array | None, slopes: Array | None, causal: bool, flash: bool
) -> Array:
    """Attention of all positions for this device's share of the heads; local `[B, t, H, K]` in and out."""

    def heads(a: Array) -> Array:
        return jax.lax.all_to_all(a, AXIS, split_axis=2, concat_axis=1, tiled=True)

    q, k, v = heads(q), heads(k), heads(v)
    if documents is not None:
        documents = jax.lax.all_gather(documents, AXIS, axis=1, tiled=True)
    if slopes is not None:
        slopes = jax.lax.dynamic_slice_in_dim(slopes, jax.lax.axis_index(AXIS) * q.shape[2], q.shape[2])
    if flash:
        y = flash_attention(q, k, v, causal=causal, documents=documents, slopes=slopes)
    else:
        seen = as_arrays(Pairs(causal, None if documents is None else (documents, documents), slopes), q, k)
        y = dot_product_attention(q, k, v, **seen)
    return jax.lax.all_to_all(y, AXIS, split_axis=1, concat_axis=2, tiled=True)


def _by_ring(
    q: Array, k: Array, v: Array, documents: Array | None, slopes: Array | None, causal: bool, flash: bool
) -> Array:
    return _ring(q, k, v, documents, slopes, causal, size_of_blocks() if flash else q.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _ring(
    q: Array, k: Array, v: Array, documents: Array | None, slopes: Array | None, causal: bool, block: int | None
) -> Array:
    return _ring_forward(q, k, v, documents, slopes, causal, block)[0]


def _next(tree: Any) -> Any:
    """Each device hands its part to the next one, around the ring."""
    devices = axis_size(AXIS) if not jax.sharding.get_abstract_mesh().empty else 1
    order = [(device, (device + 1) % devices) for device in range(devices)]
    return jax.tree.map(lambda a: jax.lax.ppermute(a, AXIS, order), tree)


def _turn(compute: Any, turn: Array, mine: Any, theirs: Any, slopes: Any, causal: bool, size: int, nothing: Any) -> Any:
    """What `compute(pairs)` says of the queries here and the part that has come after some turns, the first excepted.

    Args:
        compute: of the pairs of positions of the two parts.
        turn: 1 or more.
        mine: documents here, or None.
        theirs: documents of the part that has come, or None.
        slopes: of ALiBi, or None.
        causal: whether a part that comes later in the sequence adds nothing.
        size: positions of a part.
        nothing: the result then.
    """
    devices, me = axis_size(AXIS), jax.lax.axis_index(AXIS)
    before = me - (me - turn) % devices  # by so many parts it comes before the queries
    pairs = Pairs(False, None if mine is None else (mine, theirs), slopes, before * size)
    return jax.lax.cond(before > 0, lambda: compute(pairs), lambda: nothing) if causal else compute(pairs)


def _ring_forward(
    q: Array, k: Array, v: Array, documents: Any, slopes: Any, causal: bool, block: int | None
) -> tuple[Array, Any]:
    """The output, and what the backward pass needs: inputs, output, log-sum-exp of the scores."""
    both = None if documents is None else (documents, documents)
    first = part_outputs(q, k, v, Pairs(causal, both, slopes), block)
    nothing = jnp.zeros_like(first[0]), jnp.full_like(first[1], LEAST)

    def visit(carry: Any, turn: Array) -> tuple[Any, None]:
        so_far, travelling = carry
        travelling = _next(travelling)
        k, v, theirs = travelling

        def compute(pairs: Pairs) -> tuple[Array, Array]:
            return part_outputs(q, k, v, pairs, block)

        found = _turn(compute, turn, documents, theirs, slopes, causal, q.shape[1], nothing)
        return (added(so_far, found), travelling), None

    ((y, sums), _), _ = jax.lax.scan(visit, (first, (k, v, documents)), jnp.arange(1, axis_size(AXIS)))
    y, sums = checkpoint_name(y.astype(q.dtype), STORED), checkpoint_name(sums, STORED)
    return y, (q, k, v, documents, slopes, y, sums)


def _ring_backward(causal: bool, block: int | None, saved: Any, dy: Array) -> tuple[Any, ...]:
    """Gradients of queries, keys and values; those of keys and values travel with them, and are home after one round."""
    q, k, v, documents, slopes, y, sums = saved
    both = None if documents is None else (documents, documents)
    dq, dk, dv = part_gradients(q, k, v, Pairs(causal, both, slopes), y, sums, dy, block)
    nothing = jax.tree.map(jnp.zeros_like, (dq, dk, dv))

    def visit(carry: Any, turn: Array) -> tuple[Any, None]:
        dq, travelling = carry
        k, v, theirs, dk, dv = _next(travelling)

        def compute(pairs: Pairs) -> tuple[Array, ...]:
            return part_gradients(q, k, v, pairs, y, sums, dy, block)

        more = _turn(compute, turn, documents, theirs, slopes, causal, q.shape[1], nothing)
        return (dq + more[0], (k, v, theirs, dk + more[1], dv + more[2])), None

    (dq, travelled), _ = jax.lax.scan(visit, (dq, (k, v, documents, dk, dv)), jnp.arange(1, axis_size(AXIS)))
    *_, dk, dv = _next(travelled)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None


_ring.defvjp(_ring_forward, _ring_backward)
