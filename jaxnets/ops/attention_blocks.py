"""Attention in blocks of queries and keys, whose scores are never in memory all at once.

A running softmax adds the blocks of keys that a block of queries sees (Rabe and Staats 2021); the backward pass computes their
scores a second time from the log-sum-exp of each query (Dao et al. 2022). Blocks above the diagonal of causal attention, and
those before its window, are not computed. `flash_attention.py` makes a differentiable function of the two halves,
`split_attention.py` adds up the parts of a sequence that several devices hold.

Shapes: `B` batch, `T` queries, `S` keys, `H` heads of the query, `G` of key and value, `R` = H / G, `K` numbers a head; `n`
blocks of `t` queries, `m` blocks of `s` keys.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.ops.beyond_promise import compiled_for

# Queries and keys of a block, at most.
BLOCK = 512
# The score of a pair that does not see each other, and where the largest score of a query starts. Beside the latter the
# exponential of the former is 0, so a query that sees no key gets zeros.
NEVER, LEAST = -1e30, -1e29


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pairs:
    """Which queries see which keys, and what is added to their scores."""

    causal: bool = dataclasses.field(default=False, metadata={"static": True})
    """A query sees keys up to its own position only. In blocks there are then as many keys as queries, and no offset."""
    documents: Any = None
    """Numbers `[B, T]` of the queries and `[B, S]` of the keys: only those with the same number see each other. Or None."""
    slopes: Any = None
    """`[H]`; minus this times the distance is added to a score (ALiBi, Press et al. 2022). Not differentiated. Or None."""
    offset: Any = 0
    """Position of the first query minus that of the first key."""
    window: int | None = dataclasses.field(default=None, metadata={"static": True})
    """With `causal`: how many positions a query sees, its own included. None: all up to its own."""


def real_keys(real: Array, queries: int) -> tuple[Array, Array]:
    """`documents` of some queries that see the keys marked in `[B, S]` bool and no others, such as padding."""
    return jnp.zeros((len(real), queries), jnp.int32), 1 - real.astype(jnp.int32)


def block_outputs(q: Array, k: Array, v: Array, pairs: Pairs, block: int) -> tuple[Array, Array]:
    """The attention of some queries to some keys.

    Args:
        q: queries `[B, T, H, K]`.
        k: keys `[B, S, G, K]`, where G divides H.
        v: as `k`.
        pairs: who sees whom.
        block: queries and keys of a block, at most.

    Returns:
        Outputs `[B, T, H, K]` and the log-sum-exp of each query's scores `[B, T, H]`, at least float32. With the latter the
        outputs for several parts of the keys are `added`.
    """
    wide, (q, k, v) = _wide(q), _multiplied(q, k, v)
    cut = _Cut.of(q, k, pairs, block)
    qs, ks, vs = cut.queries(q), cut.keys(k), cut.keys(v)
    n, B, t, G, R, K = qs.shape

    def visit(carry: tuple[Array, ...], pair: Array) -> tuple[tuple[Array, ...], None]:
        i, j = pair[0], pair[1]
        total, weight, highest = (_at(a, i) for a in carry)
        scores = cut.scores(_at(qs, i), _at(ks, j), i, j)
        above = jnp.maximum(highest, scores.max(axis=-1))
        p, fade = jnp.exp(scores - above[..., None]), jnp.exp(highest - above)
        add = jnp.einsum("bgrts,bsgk->bgrtk", p.astype(v.dtype), _at(vs, j), preferred_element_type=wide)
        found = (total * fade[..., None] + add, weight * fade + p.sum(axis=-1), above)
        return tuple(_put(a, b, i) for a, b in zip(carry, found, strict=True)), None

    shape = (n, B, G, R, t)
    start: Any = (jnp.zeros((*shape, K), wide), jnp.zeros(shape, wide), jnp.full(shape, LEAST, wide))
    (total, weight, highest), _ = jax.lax.scan(visit, start, cut.order())
    # Not a division by a tiny number, whose second derivative is none.
    sees = weight > 0
    weight = jnp.where(sees, weight, 1)
    y = jnp.moveaxis(total / weight[..., None], 4, 2)
    sums = jnp.moveaxis(jnp.where(sees, highest + jnp.log(weight), LEAST), 4, 2)
    return cut.whole(y.reshape(n, B, t, G * R, K)), cut.whole(sums.reshape(n, B, t, G * R))


def block_gradients(
    q: Array, k: Array, v: Array, pairs: Pairs, y: Array, sums: Array, dy: Array, block: int
) -> tuple[Array, Array, Array]:
    """What some queries and some keys add to the gradients of queries, keys and values.

    Args:
        q: queries `[B, T, H, K]`.
        k: keys `[B, S, G, K]`.
        v: as `k`.
        pairs: as for the outputs.
        y: outputs `[B, T, H, K]` for all keys, those of other parts as well.
        sums: log-sum-exps `[B, T, H]` for all keys.
        dy: gradient of `y`.
        block: as for the outputs.

    Returns:
        Arrays of the shapes of `q`, `k` and `v`, at least float32.
    """
    wide, (q, k, v, dy) = _wide(q), _multiplied(q, k, v, dy.astype(q.dtype))
    cut = _Cut.of(q, k, pairs, block)
    qs, ks, vs, dys = cut.queries(q), cut.keys(k), cut.keys(v), cut.queries(dy)
    # The sum over the keys of p * dp, by the output that is already there.
    along = jnp.einsum("bthk,bthk->bth", dy.astype(wide), y.astype(wide))
    # Queries that fill the last block up have a sum so large that they attend to nothing.
    alongs, all_sums = (jnp.moveaxis(a, 2, 4) for a in (cut.queries(along), cut.queries(sums, filled=-NEVER)))

    def visit(carry: tuple[Array, ...], pair: Array) -> tuple[tuple[Array, ...], None]:
        i, j = pair[0], pair[1]
        query, key, dy = _at(qs, i), _at(ks, j), _at(dys, i)
        p = jnp.exp(cut.scores(query, key, i, j) - _at(all_sums, i)[..., None])
        dp = jnp.einsum("btgrk,bsgk->bgrts", dy, _at(vs, j), preferred_element_type=wide)
        ds = (p * (dp - _at(alongs, i)[..., None]) * q.shape[-1] ** -0.5).astype(q.dtype)
        add = (
            jnp.einsum("bgrts,bsgk->btgrk", ds, key, preferred_element_type=wide),
            jnp.einsum("bgrts,btgrk->bsgk", ds, query, preferred_element_type=wide),
            jnp.einsum("bgrts,btgrk->bsgk", p.astype(dy.dtype), dy, preferred_element_type=wide),
        )
        return tuple(_put(a, _at(a, at) + b, at) for a, b, at in zip(carry, add, (i, j, j), strict=True)), None

    start: Any = (jnp.zeros(qs.shape, wide), jnp.zeros(ks.shape, wide), jnp.zeros(vs.shape, wide))
    (dq, dk, dv), _ = jax.lax.scan(visit, start, cut.order())
    return cut.whole(dq.reshape(*dq.shape[:3], -1, dq.shape[-1])), cut.whole(dk, keys=True), cut.whole(dv, keys=True)


def added(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """The outputs and log-sum-exps of queries for the keys of two parts together."""
    sums = jnp.logaddexp(one[1], other[1])
    first, second = (y * jnp.exp(part - sums)[..., None] for y, part in (one, other))
    return first + second, sums


def as_arrays(pairs: Pairs, query: Array, key: Array) -> dict[str, Array | None]:
    """What `pairs` says as arrays of all pairs: a mask `[B or 1, 1, T, S]` and a bias `[1, H, T, S]`, each or None."""
    distance = pairs.offset + jnp.arange(query.shape[1])[:, None] - jnp.arange(key.shape[1])[None, :]
    mask = bias = None
    if pairs.causal:
        mask = _before(distance, pairs.window)[None, None]
    if pairs.documents is not None:
        same = pairs.documents[0][:, None, :, None] == pairs.documents[1][:, None, None, :]
        mask = same if mask is None else mask & same
    if pairs.slopes is not None:
        bias = -(pairs.slopes[None, :, None, None] * jnp.abs(distance)[None, None].astype(pairs.slopes.dtype))
    return {"mask": mask, "bias": bias}


def blocks_seen(
    lengths: tuple[int, int], sizes: tuple[int, int], *, causal: bool, window: int | None
) -> list[tuple[int, int]]:
    """Which blocks of queries see something of which blocks of keys, by their numbers.

    Args:
        lengths: queries and keys.
        sizes: of a block of queries, and of keys.
        causal: as in `Pairs`.
        window: as in `Pairs`.
    """
    (n, m), (t, s) = (-(-length // size) for length, size in zip(lengths, sizes, strict=True)), sizes
    found = [(i, j) for i in range(n) for j in range(m) if not causal or j * s < (i + 1) * t]
    # The first query of a block is at i t, and sees what comes after i t - window.
    return [(i, j) for i, j in found if window is None or (j + 1) * s - 1 > i * t - window]


def _before(distance: Array, window: int | None) -> Array:
    """Whether a causal query sees a key that is `distance` positions before it."""
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


@dataclasses.dataclass(frozen=True)
class _Cut:
    """How queries and keys are cut into blocks of equal sizes; the last is filled up."""

    pairs: Pairs
    """With documents in blocks, `[n, B, t]` and `[m, B, s]`."""
    lengths: tuple[int, int]
    """T and S."""
    heads: int
    """G."""
    sizes: tuple[int, int]
    """t and s."""

    @classmethod
    def of(cls, q: Array, k: Array, pairs: Pairs, block: int) -> "_Cut":
        """Blocks of at most `block` positions, as equal as possible."""
        lengths = q.shape[1], k.shape[1]
        t, s = (-(-length // -(-length // block)) for length in lengths)
        documents = pairs.documents
        if documents is not None:
            documents = _blocks(documents[0], t, -1), _blocks(documents[1], s, -1)
        return cls(dataclasses.replace(pairs, documents=documents), lengths, k.shape[2], (t, s))

    def order(self) -> Array:
        """The pairs of blocks that have something to see: `[pairs, 2]`, numbers of the queries' block and of the keys'."""
        seen = blocks_seen(self.lengths, self.sizes, causal=self.pairs.causal, window=self.pairs.window)
        return jnp.asarray(seen, jnp.int32)

    def queries(self, a: Array, filled: float = 0) -> Array:
        """`[B, T, H, ...]` to `[n, B, t, G, R, ...]`."""
        a = _blocks(a, self.sizes[0], filled)
        return a.reshape(*a.shape[:3], self.heads, -1, *a.shape[4:])

    def keys(self, a: Array) -> Array:
        """`[B, S, ...]` to `[m, B, s, ...]`."""
        return _blocks(a, self.sizes[1], 0)

    def whole(self, a: Array, *, keys: bool = False) -> Array:
        """`[n, B, t, ...]` to `[B, T, ...]`."""
        a = jnp.moveaxis(a, 0, 1)
        return a.reshape(a.shape[0], -1, *a.shape[3:])[:, : self.lengths[keys]]

    def scores(self, q: Array, k: Array, i: Array, j: Array) -> Array:
        """Scores `[B, G, R, t, s]` of the queries `[B, t, G, R, K]` of block `i` and the keys `[B, s, G, K]` of block `j`."""
        wide, pairs = _wide(q), self.pairs
        scores = jnp.einsum("btgrk,bsgk->bgrts", q, k, preferred_element_type=wide) * q.shape[-1] ** -0.5
        here, there = (at * size + jnp.arange(size) for at, size in zip((i, j), self.sizes, strict=True))
        if pairs.slopes is not None:
            distance = jnp.abs(pairs.offset + here[:, None] - there[None, :]).astype(wide)
            slopes = pairs.slopes.astype(wide).reshape(1, *scores.shape[1:3], 1, 1)
            scores = scores - slopes * distance[None, None, None]
        if pairs.causal:
            seen = _before(here[:, None] - there[None, :], pairs.window)
            scores = jnp.where(seen[None, None, None], scores, NEVER)
        elif self.lengths[1] % self.sizes[1]:  # no causal query sees the keys that fill the last block up
            scores = jnp.where((there < self.lengths[1])[None, None, None, None], scores, NEVER)
        if pairs.documents is not None:
            same = _at(pairs.documents[0], i)[:, :, None] == _at(pairs.documents[1], j)[:, None, :]
            scores = jnp.where(same[:, None, None], scores, NEVER)
        return scores


def _blocks(a: Array, size: int, filled: float) -> Array:
    """`[B, T, ...]` to `[n, B, t, ...]`, the last block filled up."""
    missing = -a.shape[1] % size
    if missing:
        a = jnp.pad(a, ((0, 0), (0, missing), *((0, 0),) * (a.ndim - 2)), constant_values=filled)
    return jnp.moveaxis(a.reshape(a.shape[0], -1, size, *a.shape[2:]), 1, 0)


def _at(a: Array, index: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(a, index, keepdims=False)


def _put(a: Array, row: Array, index: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(a, row, index, 0)


def _wide(a: Array) -> Any:
    """The dtype of sums."""
    return jnp.promote_types(a.dtype, jnp.float32)


def _multiplied(*arrays: Array) -> list[Array]:
    """The arrays in a dtype whose products may have float32 sums; on the CPU those of float16 may not."""
    narrow = arrays[0].dtype == jnp.float16 and compiled_for() == "cpu"
    return [array.astype(jnp.float32) if narrow else array for array in arrays]
