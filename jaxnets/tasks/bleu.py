"""Corpus BLEU (Papineni et al. 2002), from sums that are added over batches.

Shapes: `B` batch, `N` generated tokens, `T` reference tokens; token ids, padded with 0 after the end token.
"""

import math
from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Mean
from jaxnets.ops.tokens import END, PAD, UNKNOWN

ORDERS = (1, 2, 3, 4)


def bleu_counts(written: Array, reference: Array, mask: Array) -> dict[str, Mean]:
    """The components of BLEU with one reference each: `precision_n` of n-grams, and `length_ratio`.

    Args:
        written: generated tokens `[B, N]`, integers.
        reference: reference tokens `[B, T]`, integers.
        mask: `[B]`, 0 for examples that do not count.

    Returns:
        (sum, weight) pairs over the examples: matched n-grams over generated n-grams (an n-gram matches at most as often as
        the reference has it), and generated tokens over reference tokens. An unknown token in the reference never matches.
    """
    reference = jnp.where(reference == UNKNOWN, -1, reference)
    (mine, own), (theirs, real) = _runs(written), _runs(reference)
    counts = {}
    for n in ORDERS:
        here = _same(written, written, n) & own[n][:, :, None] & own[n][:, None, :]
        there = _same(written, reference, n) & own[n][:, :, None] & real[n][:, None, :]
        # The k-th copy of an n-gram matches if the reference has at least k copies.
        copy = (here & jnp.tri(written.shape[1], dtype=bool)[None]).sum(axis=2)
        found = own[n] & (copy <= there.sum(axis=2))
        counts[f"precision_{n}"] = _ratio(found.sum(axis=1), own[n].sum(axis=1), mask)
    return {**counts, "length_ratio": _ratio(mine, theirs, mask)}


def bleu(values: Mapping[str, float]) -> float:
    """BLEU in percent from the divided sums of `bleu_counts`; 0 if a precision is 0 (no smoothing)."""
    precisions, ratio = [values[f"precision_{n}"] for n in ORDERS], values["length_ratio"]
    if not all(p > 0 for p in precisions) or not ratio > 0:
        return 0.0
    brevity = min(1.0, math.exp(1 - 1 / ratio))
    return 100 * brevity * math.exp(sum(map(math.log, precisions)) / len(ORDERS))


def _runs(tokens: Array) -> tuple[Array, dict[int, Array]]:
    """Number of tokens before the end `[B]`, and for each n the positions where an n-gram starts, `[B, N]` bool."""
    ended = jnp.cumsum((tokens == END) | (tokens == PAD), axis=1) > 0
    count = (~ended).sum(axis=1)
    place = jnp.arange(tokens.shape[1])
    return count, {n: place[None, :] <= (count - n)[:, None] for n in ORDERS}


def _same(a: Array, b: Array, n: int) -> Array:
    """Whether the n-grams at each position of `a` and of `b` are equal, `[B, N, T]` bool (padded at the ends)."""
    a, b = (jnp.pad(x, ((0, 0), (0, n - 1))) for x in (a, b))
    N, T = a.shape[1] - n + 1, b.shape[1] - n + 1
    same = jnp.ones((len(a), N, T), bool)
    for k in range(n):
        same &= a[:, k : k + N, None] == b[:, None, k : k + T]
    return same


def _ratio(above: Array, below: Array, mask: Array) -> Mean:
    kept = mask.astype(jnp.float32)
    return Mean((above * kept).sum(), (below * kept).sum())
