"""Attention over sequences that several devices hold in parts, along the mesh axis `sequence`.

Two ways, with the result of attention on one device:

- `ring` (Liu et al. 2023): each device keeps its queries, and the keys and values travel around the devices. A running softmax
  adds their contributions, so no device ever holds more than its part. The backward pass goes around once more.
- `heads` (Jacobs et al. 2023, "Ulysses"): an all-to-all gives each device the whole sequence of some of the heads, and one
  back. Its number of heads must be divisible by the devices.

Masks are given by what makes them (causal, documents, slopes of a bias), never as arrays of all pairs.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

from jaxnets.ops.axes import AXES, axis_size

AXIS = "sequence"
By = Literal["ring", "heads"]
# Scores of pairs that do not see each other; finite, because a block may have no pair that does.
NEVER = -1e30


def split_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    by: By = "ring",
    causal: bool = False,
    documents: Array | None = None,
    slopes: Array | None = None,
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

    Returns:
        `[B, T, H, K]`, in the dtype of the query; softmax and sums are float32.

    Raises:
        ValueError: the devices do not divide the heads where `by` is heads.
    """
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
    run = _ring if by == "ring" else _by_heads

    def local(q: Array, k: Array, v: Array, d: Array | None) -> Array:
        return run(q, k, v, d, slopes, causal)

    parts, rows = P(None, AXIS), None if documents is None else P(None, AXIS)
    split = jax.shard_map(
        local, in_specs=(parts, parts, parts, rows), out_specs=parts, axis_names={AXIS}, check_vma=False
    )
    # Under `jit` also where the caller is not: a part of the mesh's axes is left to the compiler, which eager code has not.
    return jax.jit(split)(query, key, value, documents)[:, :length]


def can_split() -> bool:
    """Whether the mesh in use splits sequences."""
    return axis_size(AXIS) > 1 and AXES["length"] == (AXIS,)


def _scores(q: Array, k: Array, here: Any, there: Any, slopes: Array | None, causal: bool, docs: Any) -> Array:
    """Scores `[B, G, R, t, s]` float32 of queries `[B, t, H, K]` at positions `here` and keys `[B, s, G, K]` at `there`."""
    B, t, H, K = q.shape
    G = k.shape[2]
    grouped = q.reshape(B, t, G, H // G, K)
    scores = jnp.einsum("btgrk,bsgk->bgrts", grouped, k, preferred_element_type=jnp.float32) * K**-0.5
    if slopes is not None:
        distance = (here[:, None] - there[None, :]).astype(jnp.float32)
        scores = scores - slopes.astype(jnp.float32).reshape(1, G, H // G, 1, 1) * distance[None, None, None]
    if causal:
        scores = jnp.where((here[:, None] >= there[None, :])[None, None, None], scores, NEVER)
    if docs is not None:
        same = docs[0][:, :, None] == docs[1][:, None, :]
        scores = jnp.where(same[:, None, None], scores, NEVER)
    return scores


def _by_heads(q: Array, k: Array, v: Array, documents: Array | None, slopes: Array | None, causal: bool) -> Array:
    """Attention of all positions for this device's share of the heads; local `[B, t, H, K]` in and out."""

    def heads(a: Array) -> Array:
        return jax.lax.all_to_all(a, AXIS, split_axis=2, concat_axis=1, tiled=True)

    q, k, v = heads(q), heads(k), heads(v)
    if documents is not None:
        documents = jax.lax.all_gather(documents, AXIS, axis=1, tiled=True)
    if slopes is not None:
        slopes = jax.lax.dynamic_slice_in_dim(slopes, jax.lax.axis_index(AXIS) * q.shape[2], q.shape[2])
    places = jnp.arange(q.shape[1])
    docs = None if documents is None else (documents, documents)
    weights = jax.nn.softmax(_scores(q, k, places, places, slopes, causal, docs))
    y = jnp.einsum("bgrts,bsgk->btgrk", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    y = y.reshape(q.shape).astype(q.dtype)
    return jax.lax.all_to_all(y, AXIS, split_axis=1, concat_axis=2, tiled=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _ring(q: Array, k: Array, v: Array, documents: Array | None, slopes: Array | None, causal: bool) -> Array:
    return _ring_forward(q, k, v, documents, slopes, causal)[0]


def _next(tree: Any) -> Any:
    """Each device hands its part to the next one, around the ring."""
    devices = axis_size(AXIS) if not jax.sharding.get_abstract_mesh().empty else 1
    order = [(device, (device + 1) % devices) for device in range(devices)]
    return jax.tree.map(lambda a: jax.lax.ppermute(a, AXIS, order), tree)


def _places(part: Any, size: int) -> Array:
    return part * size + jnp.arange(size)


def _ring_forward(q: Array, k: Array, v: Array, documents: Any, slopes: Any, causal: bool) -> tuple[Array, Any]:
    """The output, and what the backward pass needs: inputs, output, log of the softmax's denominator."""
    devices, me = axis_size(AXIS), jax.lax.axis_index(AXIS)
    B, t, H, K = q.shape
    G = k.shape[2]
    here = _places(me, t)

    def visit(carry: Any, turn: Array) -> tuple[Any, None]:
        total, weight, highest, travelling = carry
        k, v, theirs = travelling
        there = _places((me - turn) % devices, t)
        docs = None if theirs is None else (documents, theirs)
        scores = _scores(q, k, here, there, slopes, causal, docs)
        above = jnp.maximum(highest, scores.max(axis=-1))
        p = jnp.exp(scores - above[..., None])
        fade = jnp.exp(highest - above)
        add = jnp.einsum("bgrts,bsgk->bgrtk", p.astype(v.dtype), v, preferred_element_type=jnp.float32)
        carry = (total * fade[..., None] + add, weight * fade + p.sum(axis=-1), above, _next(travelling))
        return carry, None

    shape = (B, G, H // G, t)
    start = (jnp.zeros((*shape, K)), jnp.zeros(shape), jnp.full(shape, NEVER), (k, v, documents))
    (total, weight, highest, _), _ = jax.lax.scan(visit, start, jnp.arange(devices))
    y = jnp.moveaxis(total / weight[..., None], 3, 1).reshape(q.shape).astype(q.dtype)
    return y, (q, k, v, documents, slopes, y, highest + jnp.log(weight))


def _ring_backward(causal: bool, saved: Any, dy: Array) -> tuple[Any, ...]:
    """Gradients of queries, keys and values; those of keys and values travel with them, and are home after one round."""
    q, k, v, documents, slopes, y, log_weight = saved
    devices, me = axis_size(AXIS), jax.lax.axis_index(AXIS)
    B, t, H, K = q.shape
    G = k.shape[2]
    here = _places(me, t)
    grouped, dy_grouped = (a.reshape(B, t, G, H // G, K) for a in (q, dy))
    # The sum over the keys of p * dp, by the output that is already there.
    along = jnp.einsum("bthk,bthk->bth", dy.astype(jnp.float32), y.astype(jnp.float32))
    along = jnp.moveaxis(along.reshape(B, t, G, H // G), 1, 3)

    def visit(carry: Any, turn: Array) -> tuple[Any, None]:
        dq, (k, v, theirs, dk, dv) = carry
        there = _places((me - turn) % devices, t)
        docs = None if theirs is None else (documents, theirs)
        p = jnp.exp(_scores(q, k, here, there, slopes, causal, docs) - log_weight[..., None])
        dp = jnp.einsum("btgrk,bsgk->bgrts", dy_grouped, v, preferred_element_type=jnp.float32)
        ds = (p * (dp - along[..., None]) * K**-0.5).astype(q.dtype)
        dq = dq + jnp.einsum("bgrts,bsgk->btgrk", ds, k, preferred_element_type=jnp.float32)
        dk = dk + jnp.einsum("bgrts,btgrk->bsgk", ds, grouped, preferred_element_type=jnp.float32)
        dv = dv + jnp.einsum("bgrts,btgrk->bsgk", p.astype(dy.dtype), dy_grouped, preferred_element_type=jnp.float32)
        return (dq, _next((k, v, theirs, dk, dv))), None

    zeros = (jnp.zeros(k.shape), jnp.zeros(v.shape))
    start = (jnp.zeros(grouped.shape), (k, v, documents, *zeros))
    (dq, (_, _, _, dk, dv)), _ = jax.lax.scan(visit, start, jnp.arange(devices))
    return dq.reshape(q.shape).astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None


_ring.defvjp(_ring_forward, _ring_backward)
