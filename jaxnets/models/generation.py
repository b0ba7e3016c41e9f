"""Text generation with a language model: one token per step, with a cache, compiled once for a whole batch.

Shapes: `B` batch, `P` prompt, `N` new tokens, `V` vocabulary.
"""

import dataclasses
import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.models.layers import most_positions
from jaxnets.ops.beyond_promise import is_traced

# With a smaller temperature the scaled logits may overflow float32.
LEAST_TEMPERATURE = 1e-6


@runtime_checkable
class Decoder(Protocol):
    """The protocol of models for `generate`; `LanguageModel`, `HybridLanguageModel` and `RNN` implement it.

    `apply(variables, tokens, cache=...)` returns logits `[B, T, V]` and the updated cache.
    """

    @property
    def length(self) -> int | None:
        """Maximum tokens of a training window. Also of any text, unless the field `positions` names computed positions.
        None: no limit."""

    def empty_cache(self, batch: int, length: int) -> Any:
        """The empty cache for texts of up to `length` tokens; a tree of arrays."""

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """As in Linen."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the model's logits."""

    temperature: float = 1.0
    """Divides the logits; 0 always takes the most likely token."""
    top_k: int = 0
    """Sample from this many most likely tokens; 0: from all."""
    top_p: float = 1.0
    """Sample from the most likely tokens that together reach this probability (nucleus sampling, Holtzman et al. 2020)."""

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or self.temperature >= LEAST_TEMPERATURE):
            raise ValueError(
                f"temperature is 0, which takes the likeliest token, or at least {LEAST_TEMPERATURE}; got {self.temperature}"
            )
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise ValueError(f"top_k is a whole number of at least 1, or 0 for all; got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a probability in (0, 1], got {self.top_p}")

    def choose(self, logits: Array, key: Array) -> Array:
        """Tokens `[B]` int32 from logits `[B, V]`."""
        if self.temperature == 0:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        logits = (logits - logits.max(axis=-1, keepdims=True)) / self.temperature
        if not self.top_k and self.top_p == 1:
            return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
        # Most likely first; of equally likely tokens, the lower id first.
        descending, tokens = jax.lax.top_k(logits, min(self.top_k or logits.shape[-1], logits.shape[-1]))
        if self.top_p < 1:
            probability = jax.nn.softmax(descending, axis=-1)
            # Keep a token if those before it sum to less than top_p, so the most likely token always stays.
            before = jnp.cumsum(probability, axis=-1) - probability
            descending = jnp.where(before < self.top_p, descending, -jnp.inf)
        place = jax.random.categorical(key, descending, axis=-1)
        return jnp.take_along_axis(tokens, place[:, None], axis=-1)[:, 0].astype(jnp.int32)


def generate(
    model: Decoder,
    variables: Any,
    prompt: Array,
    count: int,
    *,
    key: Array,
    sampling: Sampling | None = None,
) -> Array:
    """Generate `count` tokens after each prompt.

    Args:
        model: a model whose vocabulary size is set.
        variables: its parameters.
        prompt: `[B, P]` integers, P at least 1; all prompts have the same length.
        count: number of new tokens; with learned positions, P + count is at most the model's `length`.
        key: the random key of all draws; rows of the batch draw independently.
        sampling: how tokens are chosen.

    Returns:
        `[B, count]` int32, bit-equal for equal arguments. Compiled once for each shape, count and sampling.

    Raises:
        ValueError: an empty prompt, one with tokens outside the vocabulary, or more tokens than the model takes.
    """
    prompt = check_tokens("a prompt", prompt, model, "vocab_size")
    limit = most_positions(model)
    if limit is not None and prompt.shape[1] + count > limit:
        raise ValueError(
            f"{prompt.shape[1]} prompt tokens and {count} new ones are more than {type(model).__name__}.length "
            f"{limit}, the size of its table of positions; request fewer, or train with positions='rotary', which has none"
        )
    if count < 1:
        raise ValueError(f"count is at least 1, got {count}")
    return _generate(model, variables, prompt, count, key, sampling or Sampling())


def check_tokens(what: str, tokens: Any, model: Any, field: str) -> Array:
    """Tokens `[B, S]` as int32; raises `ValueError` unless they are whole numbers below the model's field `field`.

    Traced tokens have no values, so only their shape and dtype are checked.
    """
    if not is_traced(tokens):
        tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.shape[1] < 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(
            f"{what} is whole numbers [batch, positions] with at least one position, got {tokens.dtype}{list(tokens.shape)}"
        )
    kind, size = type(model).__name__, getattr(model, field, None)
    if size is None:
        raise ValueError(f"{kind}.{field} is not set; use the model of a run, which has it (`run.parts.task.model`)")
    if isinstance(tokens, np.ndarray) and tokens.size and not 0 <= tokens.min() <= tokens.max() < size:
        raise ValueError(
            f"{what} has tokens from {tokens.min()} to {tokens.max()}, but {kind}.{field} is {size}, numbered from 0; "
            f"encode the text with the tokenizer used in training"
        )
    return jnp.asarray(tokens, jnp.int32)


@functools.partial(jax.jit, static_argnums=(0, 3, 5))
def _generate(model: Decoder, variables: Any, prompt: Array, count: int, key: Array, sampling: Sampling) -> Array:
    batch, length = prompt.shape
    logits, cache = model.apply(variables, prompt, cache=model.empty_cache(batch, length + count))
    keys = jax.random.split(key, count)
    first = sampling.choose(logits[:, -1], keys[0])

    def next_token(carry: Any, key: Array) -> tuple[Any, Array]:
        token, cache = carry
        logits, cache = model.apply(variables, token[:, None], cache=cache)
        token = sampling.choose(logits[:, -1], key)
        return (token, cache), token

    _, rest = jax.lax.scan(next_token, (first, cache), keys[1:])
    return jnp.concatenate([first[:, None], rest.T], axis=1)
