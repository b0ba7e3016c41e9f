"""Sequences written by a `Seq2SeqTransformer`: the likeliest token each time, or the best of several at once (beam search).

Shapes: `B` batch, `S` source positions, `W` width of the beam, `N` tokens to write at most, `V` vocabulary.

Both read the source once, keep keys and values in a cache, stop when every sequence has ended, and are compiled once for each
shape. What follows the end token is padding.
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
    """What beam search has found for each example, best first."""

    tokens: Array
    """`[B, W, N]` int32, end token included where there is one."""
    scores: Array
    """`[B, W]` float32: log-probability over the length penalty; -inf where there are fewer sequences than places."""


def greedy(model: Seq2SeqTransformer, variables: Any, source: Array, length: int) -> Array:
    """The likeliest token each time.

    Args:
        model: with its vocabularies set.
        variables: its parameters.
        source: `[B, S]` tokens.
        length: tokens to write at most; not more than the model's length, where it has a table of positions.

    Returns:
        `[B, length]` int32.
    """
    source = check_tokens("a source", source, model, "source_vocab_size")
    return _greedy(model, variables, source, _checked(model, length))


def beam_search(
    model: Seq2SeqTransformer, variables: Any, source: Array, length: int, *, width: int = 4, penalty: float = 0.6
) -> Beam:
    """The best sequences that are found when only `width` beginnings are kept at a time.

    A sequence of `n` tokens (the end token counts) is as good as its log-probability over `((5 + n) / 6) ** penalty`
    (Wu et al. 2016). One that has ended keeps its place until better ones push it out. Those that have not ended within
    `length` tokens come after those that have. A width of 1 is `greedy`.

    Args:
        model: with its vocabularies set.
        variables: its parameters.
        source: `[B, S]` tokens.
        length: tokens to write at most; not more than the model's length, where it has a table of positions.
        width: beginnings to keep.
        penalty: 0 compares log-probabilities, which favours short sequences; 1 nearly their means.
    """
    if width < 1:
        raise ValueError(f"a beam is at least 1 wide, got {width}")
    if not 0 <= penalty < float("inf"):
        raise ValueError(f"the length penalty is at least 0, got {penalty}")
    source = check_tokens("a source", source, model, "source_vocab_size")
    return _beam_search(model, variables, source, _checked(model, length), width, penalty)


def _checked(model: Seq2SeqTransformer, length: int) -> int:
    limit = most_positions(model)
    if length < 1 or (limit is not None and length > limit):
        most = "" if limit is None else f" and at most Seq2SeqTransformer.length {limit}"
        raise ValueError(
            f"a sequence has at least 1 token{most}, {length} were asked for; ask for fewer, or train with a larger length"
        )
    return length


def _log_probabilities(logits: Array) -> Array:
    """Of what can be written: anything but padding and the begin token. `[..., V]` both."""
    token = jnp.arange(logits.shape[-1])
    never = ((token == PAD) | (token == BEGIN)).reshape((1,) * (logits.ndim - 1) + (-1,))
    return jax.nn.log_softmax(jnp.where(never, -jnp.inf, logits), axis=-1)


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

    def judge(scores: Array, count: Array) -> Array:
        return scores / ((5.0 + count) / 6.0) ** penalty

    def write(state: Any) -> Any:
        at, last, tokens, scores, count, ended, cache = state
        logits, cache = apply(variables, last.reshape(B * W, 1), cache, method="extend")
        gain = _log_probabilities(logits[:, -1]).reshape(B, W, -1)
        V = gain.shape[-1]
        # A sequence that has ended goes on in one way only, with padding, which changes nothing.
        nothing = jnp.where(jnp.arange(V) == PAD, 0.0, -jnp.inf)[None, None]
        total = scores[..., None] + jnp.where(ended[..., None], nothing, gain)
        count = count + ~ended
        best = jax.lax.top_k(judge(total, count[..., None]).reshape(B, W * V), W)[1]
        parent, token = best // V, (best % V).astype(jnp.int32)
        tokens, count, ended = (
            jnp.take_along_axis(a, parent.reshape(B, W, *(1,) * (a.ndim - 2)), 1) for a in (tokens, count, ended)
        )
        scores = jnp.take_along_axis(total.reshape(B, W * V), best, 1)
        rows = (jnp.arange(B)[:, None] * W + parent).reshape(-1)
        cache = {**cache, "layers": jax.tree.map(lambda a: a[rows], cache["layers"])}
        return at + 1, token, tokens.at[:, :, at].set(token), scores, count, ended | (token == END), cache

    # Each example once in the encoder, then once for every place in the beam.
    cache = jax.tree.map(
        lambda a: jnp.repeat(a, W, axis=0) if a.ndim else a, apply(variables, source, length, method="begin")
    )
    # All places begin alike: only the first may go on from here.
    scores = jnp.broadcast_to(jnp.where(jnp.arange(W) == 0, 0.0, -jnp.inf)[None], (B, W)).astype(jnp.float32)
    state = (
        0, jnp.full((B, W), BEGIN, jnp.int32), jnp.full((B, W, length), PAD, jnp.int32), scores,
        jnp.zeros((B, W), jnp.int32), jnp.zeros((B, W), bool), cache,
    )  # fmt: skip
    state = jax.lax.while_loop(lambda state: (state[0] < length) & ~state[5].all(), write, state)
    _, _, tokens, scores, count, ended, _ = state
    rank = judge(scores, count)
    # Places that nothing possible fills come last.
    order = jnp.lexsort((-rank, ~ended | jnp.isneginf(rank)), axis=-1)
    return Beam(jnp.take_along_axis(tokens, order[..., None], 1), jnp.take_along_axis(rank, order, 1))
