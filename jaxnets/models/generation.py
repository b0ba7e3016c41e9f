"""Text from a language model: one token after another, with a cache, compiled once for a whole batch.

Shapes: `B` batch, `P` prompt, `N` new tokens, `V` vocabulary.
"""

import dataclasses
import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array


@runtime_checkable
class Decoder(Protocol):
    """What `generate` asks of a model: `LanguageModel`, `HybridLanguageModel` and `RNN` are such.

    Its `apply(variables, tokens, cache=...)` gives logits `[B, T, V]` and the cache with these tokens in it.
    """

    @property
    def length(self) -> int | None:
        """Most tokens of a text; None: any number."""

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
        if not self.temperature >= 0:
            raise ValueError(f"temperature is at least 0, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k is at least 1, or 0 for all; got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a probability in (0, 1], got {self.top_p}")

    def choose(self, logits: Array, key: Array) -> Array:
        """Tokens `[B]` int32 from logits `[B, V]`."""
        if self.temperature == 0:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        logits = logits / self.temperature
        if self.top_k:
            least = jax.lax.top_k(logits, min(self.top_k, logits.shape[-1]))[0][:, -1:]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        if self.top_p < 1:
            falling = jnp.sort(logits, axis=-1)[:, ::-1]
            probability = jax.nn.softmax(falling, axis=-1)
            # A token stays if those likelier than it do not reach top_p without it; the likeliest always stays.
            before = jnp.cumsum(probability, axis=-1) - probability
            least = jnp.min(jnp.where(before < self.top_p, falling, jnp.inf), axis=-1, keepdims=True)
            logits = jnp.where(logits < least, -jnp.inf, logits)
        return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)


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
        prompt: `[B, P]` int, P at least 1; the same length for all.
        count: new tokens; P + count at most the model's length, where it has one.
        key: of all draws; each row of the batch draws for itself.
        sampling: how tokens are chosen.

    Returns:
        `[B, count]` int32. The same bits for the same arguments; compiled once for each shape and choice.

    Raises:
        ValueError: an empty prompt, or more tokens than the model takes.
    """
    if prompt.ndim != 2 or prompt.shape[1] < 1:
        raise ValueError(
            f"a prompt is tokens [batch, positions] with at least one position, got shape {tuple(prompt.shape)}"
        )
    if model.length is not None and prompt.shape[1] + count > model.length:
        raise ValueError(
            f"{prompt.shape[1]} prompt tokens and {count} new ones are more than {type(model).__name__}.length "
            f"{model.length}; ask for fewer"
        )
    if count < 1:
        raise ValueError(f"count is at least 1, got {count}")
    return _generate(model, variables, jnp.asarray(prompt, jnp.int32), count, key, sampling or Sampling())


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
