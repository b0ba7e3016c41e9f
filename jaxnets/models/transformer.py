"""The transformer of "Attention is all you need" (Vaswani et al. 2017): an encoder, and an encoder with a decoder.

Shapes: `B` batch, `S` source positions, `T` target positions, `D` width, `H` heads, `K` numbers a head, `F` hidden units,
`V` vocabulary, `C` outputs, `N` positions in a cache.

Token 0 is padding. It is masked in attention, so the amount of padding does not change the results. Every branch (attention,
attention to the source, MLP) has a residual connection. LayerNorm is applied to the sum (post, as in the paper), or to the
input of the branch and after the last block (pre; Xiong et al. 2020). Pre-norm depends less on the warm-up.
"""

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxnets.core.wide import wide
from jaxnets.models.activations import FeedForward
from jaxnets.models.layers import Dense, Embed, Remat, add_positions, check_layers, most_positions, rematerialised
from jaxnets.models.norms import LayerNorm
from jaxnets.models.transformer_block import EPSILON, Block
from jaxnets.ops import name_axes
from jaxnets.ops.attend import Kind
from jaxnets.ops.attention_blocks import Pairs, real_keys
from jaxnets.ops.positions import sinusoids
from jaxnets.ops.tokens import PAD

# {"layers": keys and values, each [B, N, H, K], of the target so far, one pair a layer; "memory": those of the source; "seen":
# [B, S] bool, which source tokens are real; "length": target positions filled so far, int32}
Cache = dict[str, Any]


class Pair(NamedTuple):
    """The input of a `Seq2SeqTransformer`."""

    source: Array
    """Source tokens, `[B, S]` integers, padded with 0."""
    previous: Array
    """Decoder input, `[B, T]` integers: the begin token, then the target without its last token."""


class Transformer(nn.Module):
    """Fields and methods shared by the two models below."""

    vocab_size: int | None = None
    """Vocabulary size (of the target, if there is one); None: that of the data."""
    layers: int = 4
    """Blocks of attention and MLP (of the encoder)."""
    width: int = 128
    """Width of a token's embedding and hidden states."""
    heads: int = 4
    """Attention heads; each has width / heads numbers."""
    mlp_dim: int | None = None
    """Hidden units of the MLP; None: four times the width."""
    length: int = 512
    """Maximum tokens of a training sequence, begin and end included; with learned positions, also of any call."""
    positions: Literal["sinusoidal", "learned", "rotary", "alibi"] = "sinusoidal"
    """Kind of position encoding."""
    norm_place: Literal["pre", "post"] = "pre"
    """Whether a LayerNorm comes before each branch or after its sum."""
    activation: FeedForward = "relu"
    """Function of the MLP between its linear maps: see `FeedForward` in `activations.py`."""
    dropout: float = 0.0
    """Dropout rate after the embedding and after each branch while training, in [0, 1)."""
    attention: Kind = "plain"
    """flash: the scores of all pairs are never in memory at once (`ops/flash_attention.py`). With a cache it is plain."""
    remat: Remat = "none"
    """Which results of a block the backward pass computes again, to save memory: see `Remat` in `layers.py`."""

    def __post_init__(self) -> None:
        check_layers(self)
        kind = type(self).__name__
        if self.width % self.heads:
            raise ValueError(f"{kind}.width {self.width} is not divisible by heads {self.heads}; change one")
        if self.positions == "rotary" and (each := self.width // self.heads) % 2:
            raise ValueError(f"{kind}: rotary positions rotate pairs of numbers, so width / heads is even, not {each}")
        super().__post_init__()

    @property
    def attention_shape(self) -> tuple[int, int, int]:
        """Query heads, key and value heads, numbers a head."""
        return self.heads, self.heads, self.width // self.heads

    def embed(self, vocabulary: int | None, name: str | None = None) -> "Embedding":
        """An embedding of this model's sizes."""
        return Embedding(vocabulary or 1, self.width, self.length, self.positions, self.dropout, name=name)

    def block(self, *, crossing: bool, name: str | None = None) -> Any:
        """A block of this model's sizes; `crossing`: with attention to a source."""
        shared = (self.positions, self.norm_place, self.activation, self.dropout)
        kind = rematerialised(Block, self.remat, static=(7,))
        return kind(
            self.width, self.heads, self.mlp_dim or 4 * self.width, *shared, crossing, self.attention, name=name
        )

    def check(self, what: str, tokens: Array) -> None:
        """Raise `ValueError` unless tokens are integers `[B, T]` that the model has positions for."""
        kind = type(self).__name__
        if tokens.ndim != 2 or not tokens.shape[1] or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(
                f"{kind} takes {what} [batch, positions] of integers, at least one, got "
                f"{tokens.dtype}{list(tokens.shape)}"
            )
        if tokens.shape[1] > (limit := most_positions(self) or tokens.shape[1]):
            raise ValueError(
                f"{what}: {tokens.shape[1]} tokens do not fit {kind}.length {limit}; cut them, or make it larger"
            )


class TransformerEncoder(Transformer):
    """Self-attention between all tokens; returns a vector for each, or one prediction for the sequence."""

    pool: Literal["mean", "token", "none"] = "mean"
    """Input of the output layer: the mean of the tokens, or a class token before them; none: no output layer."""
    outputs: int | None = None
    """Output units; None: the number of classes in the data."""

    @nn.compact
    def __call__(self, tokens: Array, *, mask: Array | None = None, train: bool = False) -> Array:
        """Outputs `[B, C]` of tokens `[B, S]`, or vectors `[B, S, D]` if `pool` is "none".

        `mask` `[B, S]` bool marks the real tokens; None: all tokens that are not 0.
        """
        self.check("tokens", tokens)
        seen = tokens != PAD if mask is None else mask
        x = self.embed(self.vocab_size, "embedding")(tokens, train=train)
        if self.pool == "token":
            token = self.param("token", nn.initializers.normal(1.0), (1, 1, self.width)).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], axis=1)
            seen = jnp.pad(seen, ((0, 0), (1, 0)), constant_values=True)
        pairs = Pairs(documents=real_keys(seen, x.shape[1]))
        for index in range(self.layers):
            x = self.block(crossing=False, name=f"block_{index}")(x, pairs, None, None, None, 0, train)
        if self.norm_place == "pre":
            x = LayerNorm(EPSILON, name="final_norm")(x)
        if self.pool == "none":
            return x
        real = seen[..., None].astype(jnp.float32)
        mean = ((x * real).sum(axis=1) / jnp.maximum(real.sum(axis=1), 1)).astype(x.dtype)
        return Dense(self.outputs or 1, name="output")(x[:, 0] if self.pool == "token" else mean)


class Seq2SeqTransformer(Transformer):
    """Encoder and decoder; the decoder attends to its previous tokens and to the encoded source."""

    source_vocab_size: int | None = None
    """Vocabulary size of the source; None: that of the data."""
    decoder_layers: int | None = None
    """Blocks of the decoder; None: as many as the encoder has."""
    embedding: Literal["untied", "tied", "shared"] = "tied"
    """tied: the output layer is the target embedding's transpose; shared: the source has the same embedding too, which needs
    one vocabulary for both (Press and Wolf 2017)."""

    def __post_init__(self) -> None:
        if self.embedding == "shared" and self.vocab_size != self.source_vocab_size:
            raise ValueError(
                f"Seq2SeqTransformer.embedding is shared, but the source has {self.source_vocab_size} tokens and the target "
                f"{self.vocab_size}; give both one vocabulary, or choose tied"
            )
        super().__post_init__()

    def setup(self) -> None:
        """Make the layers; their names are those of the attributes."""
        self.target_embedding = self.embed(self.vocab_size)
        if self.embedding != "shared":
            self.source_embedding = self.embed(self.source_vocab_size)
        self.encoder = [self.block(crossing=False) for _ in range(self.layers)]
        self.decoder = [self.block(crossing=True) for _ in range(self.decoder_layers or self.layers)]
        if self.norm_place == "pre":
            self.encoder_norm, self.decoder_norm = LayerNorm(EPSILON), LayerNorm(EPSILON)
        if self.embedding == "untied":
            self.output = Dense(self.vocab_size or 1, use_bias=False)

    def __call__(self, pair: Pair, *, train: bool = False) -> Array:
        """Logits `[B, T, V]` float32 of the token that follows each of `pair.previous`."""
        self.check("previous", pair.previous)
        memory = self.encode(pair.source, train=train)
        x = self.target_embedding(pair.previous, train=train)
        across = Pairs(documents=real_keys(pair.source != PAD, x.shape[1]))
        for block in self.decoder:
            x = block(x, Pairs(causal=True), block.memory(memory), across, None, 0, train)
        return self.logits(x)

    def encode(self, source: Array, *, train: bool = False) -> Array:
        """Encode `[B, S]` tokens to `[B, S, D]`."""
        self.check("source", source)
        x = (self.target_embedding if self.embedding == "shared" else self.source_embedding)(source, train=train)
        pairs = Pairs(documents=real_keys(source != PAD, x.shape[1]))
        for block in self.encoder:
            x = block(x, pairs, None, None, None, 0, train)
        return self.encoder_norm(x) if self.norm_place == "pre" else x

    def begin(self, source: Array, length: int) -> Cache:
        """Encode the source `[B, S]` and return a cache for a target of up to `length` tokens."""
        if length > (most_positions(self) or length):
            raise ValueError(f"a target of {length} tokens does not fit Seq2SeqTransformer.length {self.length}")
        memory = self.encode(source)
        empty = jnp.zeros((len(source), length, self.heads, self.width // self.heads), memory.dtype)
        return {
            "layers": tuple((empty, empty) for _ in self.decoder),
            "memory": tuple(block.memory(memory) for block in self.decoder),
            "seen": source != PAD,
            "length": jnp.zeros((), jnp.int32),
        }

    def extend(self, previous: Array, cache: Cache) -> tuple[Array, Cache]:
        """Logits `[B, T, V]` of tokens `[B, T]` that continue the cached target, and the updated cache."""
        start, stored = cache["length"], []
        x = self.target_embedding(previous, start=start)
        pairs, across = Pairs(causal=True, offset=start), Pairs(documents=real_keys(cache["seen"], previous.shape[1]))
        for block, old, memory in zip(self.decoder, cache["layers"], cache["memory"], strict=True):
            x, new = block(x, pairs, memory, across, old, start, False)
            stored.append(new)
        return self.logits(x), {**cache, "layers": tuple(stored), "length": start + previous.shape[1]}

    def logits(self, x: Array) -> Array:
        """Float32 logits from the output of the last block."""
        x = self.decoder_norm(x) if self.norm_place == "pre" else x
        logits = self.output(x) if self.embedding == "untied" else self.target_embedding.tokens.attend(x)
        return wide(name_axes(logits, "batch", "length", "vocab"))


class Embedding(nn.Module):
    """Token embedding plus learned or sinusoidal positions. Fields as in the models."""

    vocab_size: int
    width: int
    length: int
    positions: str
    dropout: float

    def setup(self) -> None:
        """Make the layers. Scaled by sqrt(D), embeddings have variance 1, on the scale of the sinusoids (1/2)."""
        self.tokens = Embed(self.vocab_size, self.width, embedding_init=nn.initializers.normal(self.width**-0.5))
        if self.positions == "learned":
            self.places = self.param("places", nn.initializers.normal(0.02), (self.length, self.width))
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, tokens: Array, *, start: Array | int = 0, train: bool = False) -> Array:
        """`[B, T]` tokens, the first of them at position `start`, to `[B, T, D]`."""
        x, count = self.tokens(tokens), tokens.shape[1]
        x = name_axes(x * jnp.asarray(self.width**0.5, x.dtype), "batch", "length", "embed")
        if self.positions == "learned":
            x = add_positions(x, self.places, start)
        elif self.positions == "sinusoidal":
            x = x + sinusoids(start + jnp.arange(count), self.width).astype(x.dtype)[None]
        return self.drop(x, deterministic=not train)
