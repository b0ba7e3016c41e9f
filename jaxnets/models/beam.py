"""Decoding for `Seq2SeqTransformer`: greedy decoding and beam search.

Shapes: `B` batch, `S` source positions, `W` width of the beam, `N` maximum number of target tokens, `V` vocabulary.

Both encode the source once, cache keys and values, and stop when every sequence has ended. Each is compiled once per shape.
Positions after the end token are padding.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.models.generation import check_tokens
from jaxnets.models.layers import most_positions
from jaxnets.models.transformer import Seq2SeqTransformer
from jaxnets.ops.tokens import BEGIN, END, PAD


class Beam(NamedTuple):
    """Result of beam search: sequences of each example, best first."""

    tokens: Array
    """`[B, W, N]` int32, with the end token if there is one."""
    scores: Array
    """`[B, W]` float32: log-probability divided by the length penalty; -inf for a place without a sequence."""


def greedy(model: Seq2SeqTransformer, variables: Any, source: Array, length: int) -> Array:
    """Decode with the most likely token at each step.

    Args:
        model: a model whose vocabulary sizes are set.
        variables: its parameters.
        source: `[B, S]` tokens.
        length: maximum number of target tokens; with learned positions at most the model's `length`.

    Returns:
        `[B, length]` int32.
    """
    source = check_tokens("a source", source, model, "source_vocab_size")
    return _greedy(model, variables, source, _checked(model, length))


def beam_search(
    model: Seq2SeqTransformer, variables: Any, source: Array, length: int, *, width: int = 4, penalty: float = 0.6
) -> Beam:
    """Beam search: keep the `width` best partial sequences at each step.

    The score of a sequence of `n` tokens, end token included, is its log-probability divided by `((5 + n) / 6) ** penalty`
    (Wu et al. 2016). A finished sequence stays in the beam until better ones replace it. Sequences that have not ended
    within `length` tokens rank after finished ones. A width of 1 equals `greedy`.

    Args:
        model: a model whose vocabulary sizes are set.
        variables: its parameters.
        source: `[B, S]` tokens.
        length: maximum number of target tokens; with learned positions at most the model's `length`.
        width: number of sequences in the beam.
        penalty: 0 ranks by log-probability, which favours short sequences; 1 ranks nearly by the mean per token.
    """
    if width < 1:
        raise ValueError(f"the beam width is at least 1, got {width}")
    if not 0 <= penalty < float("inf"):
        raise ValueError(f"the length penalty is at least 0, got {penalty}")
    source = check_tokens("a source", source, model, "source_vocab_size")
    return _beam_search(model, variables, source, _checked(model, length), width, penalty)


def _checked(model: Seq2SeqTransformer, length: int) -> int:
    limit = most_positions(model)
    if length < 1 or (limit is not None and length > limit):
        most = "" if limit is None else f" and at most Seq2SeqTransformer.length {limit}"
        raise ValueError(
            f"a sequence has at least 1 token{most}, {length} were requested; request fewer, or train with a larger length"
        )
    return length


def _log_probabilities(logits: Array) -> Array:
    """Log-probabilities from logits, `[..., V]` both; -inf for padding and the begin token, which are never generated."""
    token = jnp.arange(logits.shape[-1])
    forbidden = ((token == PAD) | (token == BEGIN)).reshape((1,) * (logits.ndim - 1) + (-1,))
    return jax.nn.log_softmax(jnp.where(forbidden, -jnp.inf, logits), axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _greedy(model: Seq2SeqTransformer, variables: Any, source: Array, length: int) -> Array:
    apply: Any = model.apply
    B = len(source)

    def write(state: Any) -> Any:
        at, last, tokens, ended, cache = state
        logits, cache = apply(variables, last[:, None], cache, method="extend")
        token = jnp.where(ended, PAD, _log_probabilities(logits[:, -1]).argmax(axis=-1)).astype(jnp.int32)
        return at + 1, token, tokens.at[:, at].set(token), ended | (token == END), cache

    begin = jnp.full((B,), BEGIN, jnp.int32)
    cache = apply(variables, source, length, method="begin")
    state = (0, begin, jnp.full((B, length), PAD, jnp.int32), jnp.zeros((B,), bool), cache)
    return jax.lax.while_loop(lambda state: (state[0] < length) & ~state[3].all(), write, state)[2]


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _beam_search(
    model: Seq2SeqTransformer, variables: Any, source: Array, length: int, width: int, penalty: Array | float
) -> Beam:
    apply: Any = model.apply
    B, W = len(source), width

    def normalise(scores: Array, count: Array) -> Array:
        return scores / ((5.0 + count) / 6.0) ** penalty

    def write(state: Any) -> Any:
        at, last, tokens, scores, count, ended, cache = state
        logits, cache = apply(variables, last.reshape(B * W, 1), cache, method="extend")
        gain = _log_probabilities(logits[:, -1]).reshape(B, W, -1)
        V = gain.shape[-1]
        # A finished sequence continues with padding only, which leaves its score unchanged.
        padding_only = jnp.where(jnp.arange(V) == PAD, 0.0, -jnp.inf)[None, None]
        total = scores[..., None] + jnp.where(ended[..., None], padding_only, gain)
        count = count + ~ended
        best = jax.lax.top_k(normalise(total, count[..., None]).reshape(B, W * V), W)[1]
        parent, token = best // V, (best % V).astype(jnp.int32)
        tokens, count, ended = (
            jnp.take_along_axis(a, parent.reshape(B, W, *(1,) * (a.ndim - 2)), 1) for a in (tokens, count, ended)
        )
        scores = jnp.take_along_axis(total.reshape(B, W * V), best, 1)
        rows = (jnp.arange(B)[:, None] * W + parent).reshape(-1)
        cache = {**cache, "layers": jax.tree.map(lambda a: a[rows], cache["layers"])}
        return at + 1, token, tokens.at[:, :, at].set(token), scores, count, ended | (token == END), cache

    # Encode each example once, then repeat its cache for every place in the beam.
    cache = jax.tree.map(
        lambda a: jnp.repeat(a, W, axis=0) if a.ndim else a, apply(variables, source, length, method="begin")
    )
    # All places start with the same prefix, so only the first has a finite score.
    scores = jnp.broadcast_to(jnp.where(jnp.arange(W) == 0, 0.0, -jnp.inf)[None], (B, W)).astype(jnp.float32)
    state = (
        0, jnp.full((B, W), BEGIN, jnp.int32), jnp.full((B, W, length), PAD, jnp.int32), scores,
        jnp.zeros((B, W), jnp.int32), jnp.zeros((B, W), bool), cache,
    )  # fmt: skip
    state = jax.lax.while_loop(lambda state: (state[0] < length) & ~state[5].all(), write, state)
    _, _, tokens, scores, count, ended, _ = state
    rank = normalise(scores, count)
    # Places without a sequence (score -inf) come last.
    order = jnp.lexsort((-rank, ~ended | jnp.isneginf(rank)), axis=-1)
    return Beam(jnp.take_along_axis(tokens, order[..., None], 1), jnp.take_along_axis(rank, order, 1))
