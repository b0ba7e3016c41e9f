"""Random changes to token sequences. Shapes: `B` batch, `T` tokens."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Batch
from jaxnets.data.augment.base import Augmentation, Facts, check_shares, keys_of, wrong_inputs
from jaxnets.ops.tokens import PAD, UNKNOWN


@dataclasses.dataclass(frozen=True)
class TokenAugment(Augmentation):
    """Changes of sequences of tokens; the defaults change nothing."""

    drop: float = 0.0
    """Probability that a token is replaced by `by` (word dropout, Iyyer et al. 2015; Bowman et al. 2016). Padding stays."""
    by: int = UNKNOWN
    """The number of the token that stands for dropped ones; by default that of unknown words."""

    def __post_init__(self) -> None:
        check_shares(self, "drop")
        if self.by < 0:
            raise ValueError(f"TokenAugment.by is the number of a token, got {self.by}")

    def check(self, facts: Facts) -> None:
        """See `Augmentation`."""
        if not facts.tokens:
            raise wrong_inputs("TokenAugment.drop", "tokens", facts, "Use Augment, SeriesAugment or TableAugment")
        if facts.vocabulary and self.by >= facts.vocabulary:
            raise wrong_inputs(
                f"TokenAugment.by={self.by}", f"a token below {facts.vocabulary}, the size of the vocabulary", facts,
                "Give the number of a token",
            )  # fmt: skip

    def change(self, batch: Batch, key: Array, facts: Facts) -> Batch:
        """See `Augmentation`."""
        tokens = batch["inputs"]
        dropped = jax.vmap(lambda one: jax.random.bernoulli(one, self.drop, tokens.shape[1:]))(keys_of(batch, key))
        return {**batch, "inputs": jnp.where(dropped & (tokens != PAD), self.by, tokens)}


def span_sizes(length: int, *, density: float = 0.15, mean_length: float = 3.0) -> tuple[int, int]:
    """How many tokens of a sequence `span_corruption` drops, and in how many spans."""
    dropped = min(max(round(length * density), 1), length - 1)
    spans = min(max(round(dropped / mean_length), 1), dropped, length - dropped)
    return dropped, spans


def span_corruption(
    key: Array, tokens: Array, *, first_sentinel: int, end: int, density: float = 0.15, mean_length: float = 3.0
) -> tuple[Array, Array]:
    """T5's objective (Raffel et al. 2020, section 3.1.4): spans are dropped from the inputs and are the targets.

    Each span is one sentinel in the inputs; the targets are each sentinel followed by its span, and the end token. The numbers
    of dropped tokens and of spans are the same for every sequence of a length, so shapes are static.

    Args:
        key: random key of the sequence.
        tokens: `[T]` integers without padding, T at least 2.
        first_sentinel: number of the first sentinel; the next ones count upwards.
        end: number of the end token.
        density: share of the tokens that is dropped.
        mean_length: mean length of the spans.

    Returns:
        Inputs `[T - dropped + spans]` and targets `[dropped + spans + 1]` (see `span_sizes`), in the dtype of the tokens.
    """
    T = tokens.shape[0]
    if T < 2 or not 0 < density < 1 or mean_length < 1:
        raise ValueError(
            f"span corruption needs at least 2 tokens, density in (0, 1) and mean_length of at least 1; got {T} tokens, "
            f"density={density}, mean_length={mean_length}"
        )
    dropped, spans = span_sizes(T, density=density, mean_length=mean_length)
    kept_key, drop_key = jax.random.split(key)
    kept, lost = _parts(kept_key, T - dropped, spans), _parts(drop_key, dropped, spans)
    # Kept and dropped parts take turns, beginning with a kept one.
    sizes = jnp.stack([kept, lost], axis=1).reshape(-1)
    part = jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(T), side="right")
    is_lost, span = part % 2 == 1, part // 2
    starts = is_lost & (jnp.concatenate([jnp.full(1, -1), part[:-1]]) != part)
    sentinels = (first_sentinel + span).astype(tokens.dtype)
    inputs = jnp.where(starts, sentinels, tokens)[jnp.nonzero(~is_lost | starts, size=T - dropped + spans)[0]]
    # A token of span i stands after i + 1 sentinels and the lost tokens before it.
    place = jnp.cumsum(is_lost) - 1 + span + 1
    targets = jnp.full(dropped + spans + 1, end, tokens.dtype)
    nowhere = targets.shape[0]
    targets = targets.at[jnp.where(is_lost, place, nowhere)].set(tokens, mode="drop")
    targets = targets.at[jnp.where(starts, place - 1, nowhere)].set(sentinels, mode="drop")
    return inputs, targets


def _parts(key: Array, total: int, count: int) -> Array:
    """A random division of `total` into `count` whole numbers of at least 1, `[count]`; all divisions are equally likely."""
    cuts = jnp.sort(jax.random.permutation(key, total - 1)[: count - 1]) + 1
    return jnp.diff(jnp.concatenate([jnp.zeros(1, cuts.dtype), cuts, jnp.full(1, total, cuts.dtype)]))
