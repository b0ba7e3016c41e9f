"""Text from a language model: one token after another, with a cache, compiled once for a whole batch.

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

# Below this the logits over it may be beyond float32.
LEAST_TEMPERATURE = 1e-6


@runtime_checkable
class Decoder(Protocol):
    """What `generate` asks of a model: `LanguageModel`, `HybridLanguageModel` and `RNN` are such.

    Its `apply(variables, tokens, cache=...)` gives logits `[B, T, V]` and the cache with these tokens in it.
    """

    @property
    def length(self) -> int | None:
        """Most tokens of a training window; of any text, unless a field `positions` says that they are computed. None: any
        number."""

    def empty_cache(self, batch: int, length: int) -> Any:
        """What is kept of a text of up to `length` tokens, before its first; a tree of arrays."""

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """As in Linen."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the model's logits."""

    temperature: float = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = 0
    """Choose among this many of the likeliest; 0: among all."""
    top_p: float = 1.0
    """Choose among the likeliest that together have this probability (nucleus sampling, Holtzman et al. 2020)."""

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
        # Likeliest first; of equal ones that with the lower number.
        falling, tokens = jax.lax.top_k(logits, min(self.top_k or logits.shape[-1], logits.shape[-1]))
        if self.top_p < 1:
            probability = jax.nn.softmax(falling, axis=-1)
            # A token stays if those before it do not reach top_p without it; the likeliest always stays.
            before = jnp.cumsum(probability, axis=-1) - probability
            falling = jnp.where(before < self.top_p, falling, -jnp.inf)
        place = jax.random.categorical(key, falling, axis=-1)
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
    """`count` tokens after each prompt.

    Args:
        model: with its vocabulary set.
        variables: its parameters.
        prompt: `[B, P]` whole numbers, P at least 1; the same length for all.
        count: new tokens; P + count at most the model's length, where that is the size of its table of positions.
        key: of all draws; each row of the batch draws for itself.
        sampling: how tokens are chosen.

    Returns:
        `[B, count]` int32. The same bits for the same arguments; compiled once for each shape and choice.

    Raises:
        ValueError: an empty prompt, one with tokens outside the vocabulary, or more tokens than the model takes.
    """
    prompt = check_tokens("a prompt", prompt, model, "vocab_size")
    limit = most_positions(model)
    if limit is not None and prompt.shape[1] + count > limit:
        raise ValueError(
            f"{prompt.shape[1]} prompt tokens and {count} new ones are more than {type(model).__name__}.length "
            f"{limit}, the size of its table of positions; ask for fewer, or train with positions='rotary', which has none"
        )
    if count < 1:
        raise ValueError(f"count is at least 1, got {count}")
    return _generate(model, variables, prompt, count, key, sampling or Sampling())


def check_tokens(what: str, tokens: Any, model: Any, field: str) -> Array:
    """Tokens `[B, S]` as int32; raises `ValueError` unless they are whole numbers below the model's field `field`.

    What is being traced has no values to look at: there only its shape and dtype are checked.
    """
    if not is_traced(tokens):
        tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.shape[1] < 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(
            f"{what} is whole numbers [batch, positions] with at least one position, got {tokens.dtype}{list(tokens.shape)}"
        )
    kind, size = type(model).__name__, getattr(model, field, None)
    if size is None:
        raise ValueError(f"{kind}.{field} is not set; a model of a run has it (`run.parts.task.model`)")
    if isinstance(tokens, np.ndarray) and tokens.size and not 0 <= tokens.min() <= tokens.max() < size:
        raise ValueError(
            f"{what} has tokens from {tokens.min()} to {tokens.max()}, but {kind}.{field} is {size}, numbered from 0; "
            f"encode the text with the tokenizer of the training"
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
