"""A decoder-only language model: by configuration GPT-2, Llama or Qwen.

Shapes: `B` batch, `T` positions of this call, `S` positions in the cache, `D` width, `H` query heads, `G` key and value heads,
`K` numbers a head, `F` hidden units, `V` vocabulary, `L` layers.

GPT-2 (Radford et al. 2019): learned positions, LayerNorm, GELU, biases, tied embedding. Llama (Touvron et al. 2023): rotary
positions (Su et al. 2021), RMSNorm (Zhang and Sennrich 2019), a gated MLP (Shazeer 2020), no biases, fewer key heads than
query heads (Ainslie et al. 2023). Qwen2 adds biases to query, key and value; Qwen3 normalises queries and keys instead.
Mixtral replaces MLPs by experts (`mixture_of_experts.py`). Vaswani et al. (2017) normalise after the residual sums.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.models.activations import FeedForward, feed_forward
from jaxnets.models.layers import Dense, Embed, Remat, add_positions, check_layers, most_positions, rematerialised
from jaxnets.models.mixture_of_experts import COLLECTION, Experts, MixtureOfExperts
from jaxnets.models.norms import LayerNorm
from jaxnets.models.stacked_blocks import apart
from jaxnets.ops import name_axes
from jaxnets.ops.attend import Kind, attend
from jaxnets.ops.attention_blocks import Pairs
from jaxnets.ops.beyond_promise import is_traced
from jaxnets.ops.positions import alibi_slopes, places_after, rotate, sinusoids
from jaxnets.ops.split_attention import By

# {"keys": [L, B, S, G, K], "values": the same, "length": positions filled so far, int32}; with a separator also
# {"documents": [B, S] and "document": [B], int32, the number of each position's document, and of the next position's}.
Cache = dict[str, Array]
# With packed documents: each position in its document, [B, T], and the numbers of the documents of queries, [B, T], and of
# keys, [B, S].
Packed = tuple[Array, tuple[Array, Array]] | None


class Sizes(nn.Module):
    """Fields shared by a language model and its blocks."""

    layers: int = 4
    """Blocks of attention and MLP."""
    width: int = 128
    """Width of a token's embedding and hidden states."""
    heads: int = 4
    """Attention heads."""
    kv_heads: int | None = None
    """Heads of keys and values, a divisor of `heads`; None: as many as `heads`."""
    head_dim: int | None = None
    """Numbers a head; None: width / heads."""
    mlp_dim: int | None = None
    """Hidden units of the MLP, or of each expert; None: four times the width."""
    experts: Experts = Experts()
    """Mixture of experts instead of each block's MLP."""
    positions: Literal["learned", "rotary", "sinusoidal", "alibi", "none"] = "learned"
    """Kind of position encoding."""
    rope_theta: float = 10_000.0
    """Longest wavelength of the rotary positions, in units of 2 pi tokens."""
    rope_pairs: Literal["halves", "neighbours"] = "halves"
    """Which numbers of a head are rotated together: the two halves (Hugging Face) or neighbours (the paper)."""
    rope_scaling: tuple[float, float, float, float] | None = None
    """Llama 3.1's RoPE scaling: (factor, low, high, original context length), there (8, 1, 4, 8192)."""
    norm: Literal["layer", "rms"] = "layer"
    """Kind of normalisation."""
    norm_place: Literal["pre", "post"] = "pre"
    """pre: before attention and MLP, and after the last block; post: after each residual sum (Vaswani et al. 2017)."""
    norm_epsilon: float = 1e-5
    """Added to the variance or mean square before the square root."""
    mlp: FeedForward = "gelu"
    """Function of the MLP between its linear maps, such as silu(gate(x)) * up(x): see `FeedForward` in `activations.py`."""
    biases: Literal["all", "queries", "none"] = "all"
    """Which linear maps have a bias; queries: those of query, key and value only."""
    qk_norm: Literal["no", "rms"] = "no"
    """RMSNorm of each head's queries and keys before their product."""
    attention: Kind = "plain"
    """flash: attention never holds the scores of all pairs, so its memory grows with the length, not with its square
    (`ops/flash_attention.py`). With a cache it is plain. Both have the same parameters."""
    split_attention: By = "ring"
    """How attention runs if several devices hold parts of each sequence (`mesh.sequence`): keys and values are passed around
    the devices (ring), or each device computes some of the heads."""
    dropout: float = 0.0
    """Dropout rate after the embedding, attention and MLP while training, in [0, 1)."""

    @property
    def attention_shape(self) -> tuple[int, int, int]:
        """Query heads, key and value heads, numbers a head: `(H, G, K)`."""
        return self.heads, self.kv_heads or self.heads, self.head_dim or self.width // self.heads

    @property
    def sizes(self) -> dict[str, Any]:
        """These fields by name."""
        return {name: getattr(self, name) for name in Sizes.__annotations__ if name not in ("name", "parent")}


class LanguageModel(Sizes):
    """Logits of the next token at every position, from the tokens up to it."""

    vocab_size: int | None = None
    """Vocabulary size; None: that of the data."""
    length: int = 1024
    """Maximum tokens of a training window. With learned positions, also of any call; with other positions calls have no
    limit."""
    embedding: Literal["tied", "untied"] = "tied"
    """Whether the output layer is the embedding's transpose."""
    blocks: Literal["unrolled", "scanned"] = "unrolled"
    """scanned: one block in `nn.scan` over stacked parameters; compile time does not grow with depth."""
    remat: Remat = "none"
    """Which results of a block the backward pass computes again, to save memory: see `Remat` in `layers.py`."""
    pipeline_rounds: int = 1
    """How often a part of a batch goes around the devices of a pipeline (`mesh.pipeline`): see `ops/pipeline.py`."""
    separator: int | None = None
    """Token that ends a document: attention does not cross it, and positions start at 0 after it. None: that of the data, if
    they pack documents into windows."""

    splits_sequence: ClassVar[bool] = True  # its attention runs where several devices hold parts of a sequence
    splits_layers: ClassVar[bool] = True  # its blocks may be the stages of a pipeline

    def __post_init__(self) -> None:
        check_layers(self)
        if not 0 < self.norm_epsilon < 1:
            raise ValueError(f"LanguageModel.norm_epsilon is a small positive number, got {self.norm_epsilon}")
        if self.head_dim is None and self.width % self.heads:
            raise ValueError(
                f"LanguageModel.width {self.width} is not divisible by heads {self.heads}; change one, or set head_dim"
            )
        if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
            raise ValueError(f"LanguageModel.kv_heads {self.kv_heads} does not divide heads {self.heads}")
        if self.positions == "rotary" and (self.head_dim or self.width // self.heads) % 2:
            raise ValueError(
                "LanguageModel with rotary positions needs an even head width; change head_dim, width or heads"
            )
        if self.rope_scaling is not None and not (
            self.rope_scaling[0] > 0 and 0 < self.rope_scaling[1] < self.rope_scaling[2] and self.rope_scaling[3] > 0
        ):
            raise ValueError(
                f"LanguageModel.rope_scaling is (factor, low, high, length), positive and low < high; got "
                f"{self.rope_scaling}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, tokens: Array, *, train: bool = False, cache: Cache | None = None) -> Any:
        """Logits `[B, T, V]` float32 of tokens `[B, T]`.

        With a `cache` (see `empty_cache`) the tokens continue the cached text, and the result is (logits, updated cache).
        """
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(
                f"LanguageModel takes tokens [batch, positions] of integers, got {tokens.dtype}{list(tokens.shape)}"
            )
        count, limit = tokens.shape[1], most_positions(self) if cache is None else cache["keys"].shape[2]
        start = 0 if cache is None else cache["length"]
        # A traced cache length has no value to check here; `generate` checks the lengths before.
        filled = 0 if is_traced(start) else int(start)
        if limit is not None and filled + count > limit:
            what = "LanguageModel.length" if cache is None else f"a cache that holds {filled} of"
            raise ValueError(f"{count} tokens do not fit {what} {limit}; cut them, or make the length larger")
        embed = Embed(self.vocab_size or 1, self.width, embedding_init=nn.initializers.normal(0.02), name="embedding")
        x = name_axes(embed(tokens), "batch", "length", "embed")
        packed, cache = _packed(tokens, self.separator, cache)
        if self.positions == "learned":
            table = self.param("positions", nn.initializers.normal(0.02), (self.length, self.width))
            x = add_positions(x, table, start if packed is None else packed[0])
        elif self.positions == "sinusoidal":
            places = start + jnp.arange(count)[None] if packed is None else packed[0]
            x = x + sinusoids(places, self.width).astype(x.dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x, cache = _stack(self, x, cache, start, train, packed)
        x = name_axes(x, "batch", "length", "embed")
        if self.norm_place == "pre":
            x = make_norm(self.norm, self.norm_epsilon, "final_norm")(x)
        tied = self.embedding == "tied"
        head = embed.attend if tied else Dense(self.vocab_size or 1, use_bias=False, name="output")
        logits = name_axes(head(x), "batch", "length", "vocab")
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return logits if cache is None else (logits, cache)

    def empty_cache(self, batch: int, length: int, dtype: Any = jnp.float32) -> Cache:
        """An empty cache for `length` positions; with learned positions at most the model's `length`."""
        if self.positions == "learned" and length > self.length:
            raise ValueError(f"a cache of {length} positions is longer than LanguageModel.length {self.length}")
        _, kv_heads, head_dim = self.attention_shape
        shape = (self.layers, batch, length, kv_heads, head_dim)
        cache = {"keys": jnp.zeros(shape, dtype), "values": jnp.zeros(shape, dtype), "length": jnp.zeros((), jnp.int32)}
        if self.separator is not None:
            cache |= {name: jnp.zeros((batch, *more), jnp.int32)
                      for name, more in (("documents", (length,)), ("document", ()))}  # fmt: skip
        return cache


def _packed(tokens: Array, separator: int | None, cache: Cache | None) -> tuple[Packed, Cache | None]:
    """Which positions belong to one document, and the cache with the documents of these tokens `[B, T]`."""
    if separator is None:
        return None, cache
    ends = (tokens == separator).astype(jnp.int32)
    numbers = jnp.cumsum(ends, axis=1) - ends  # a separator belongs to the document that it ends
    if cache is None:
        return (places_after(ends), (numbers, numbers)), None
    numbers, start = numbers + cache["document"][:, None], cache["length"]
    documents = jax.lax.dynamic_update_slice_in_dim(cache["documents"], numbers, start, 1)
    cache = {**cache, "documents": documents, "document": cache["document"] + ends.sum(axis=1)}
    causal = jnp.arange(documents.shape[1])[None, :] <= start + jnp.arange(tokens.shape[1])[:, None]
    seen = causal[None] & (numbers[:, :, None] == documents[:, None, :])
    return (seen.sum(axis=-1) - 1, (numbers, documents)), cache


def _stack(
    model: LanguageModel, x: Array, cache: Cache | None, start: Array | int, train: bool, packed: Packed
) -> tuple[Array, Cache | None]:
    """Run the blocks, each with its own layer of the cache."""
    kind = rematerialised(Block, model.remat, static=(4,))
    if model.blocks == "scanned" and cache is None and not model.is_initializing():
        y = apart(model, kind(**model.sizes, parent=None), x, train, packed)
        if y is not None:
            return y, None
    stored = None if cache is None else (cache["keys"], cache["values"])
    if model.blocks == "scanned":
        stack = nn.scan(
            kind,
            variable_axes={"params": 0, COLLECTION: 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=model.layers,
        )
        x, stored = stack(**model.sizes, name="blocks")(x, stored, start, train, packed)
    else:
        layers = []
        for index in range(model.layers):
            layer = None if stored is None else jax.tree.map(lambda a, i=index: a[i], stored)
            x, layer = kind(**model.sizes, name=f"block_{index}")(x, layer, start, train, packed)
            layers.append(layer)
        stored = None if stored is None else jax.tree.map(lambda *a: jnp.stack(a), *layers)
    if cache is None or stored is None:
        return x, None
    return x, {**cache, "keys": stored[0], "values": stored[1], "length": cache["length"] + x.shape[1]}


class Block(Sizes):
    """Attention, then the MLP, each with a residual connection and a norm before it or after the sum."""

    @nn.compact
    def __call__(
        self, x: Array, stored: Any, start: Array | int, train: bool, packed: Packed = None
    ) -> tuple[Array, Any]:
        """`[B, T, D]` to the same, and the stored keys and values with those of this call written at `start`."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        post = self.norm_place == "post"
        first, second = (make_norm(self.norm, self.norm_epsilon, name) for name in ("attention_norm", "mlp_norm"))
        y, stored = self.attend(x if post else first(x), stored, start, packed)
        x = name_axes(first(x + drop(y)) if post else x + drop(y), "batch", "length", "embed")
        y = self.transform(x if post else second(x))
        return second(x + drop(y)) if post else x + drop(y), stored

    def dense(self, width: int, name: str, *, ends_branch: bool = False) -> nn.Dense:
        """A dense layer. At the end of a branch its initial weights are divided by `sqrt(2 layers)` (GPT-2)."""
        bias = self.biases == "all" or (self.biases == "queries" and name in ("query", "key", "value"))
        scale = 0.02 / (2 * self.layers) ** 0.5 if ends_branch else 0.02
        start = nn.initializers.normal(scale)
        return Dense(width, use_bias=bias, kernel_init=start, name=name)

    def attend(self, x: Array, stored: Any, start: Array | int, packed: Packed) -> tuple[Array, Any]:
        """Causal self-attention."""
        (B, T, D), (H, G, K) = x.shape, self.attention_shape
        q = self.dense(H * K, "query")(x).reshape(B, T, H, K)
        k = self.dense(G * K, "key")(x).reshape(B, T, G, K)
        v = self.dense(G * K, "value")(x).reshape(B, T, G, K)
        if self.qk_norm == "rms":
            q, k = (make_norm("rms", self.norm_epsilon, f"{n}_norm")(a) for n, a in (("query", q), ("key", k)))
        if self.positions == "rotary":
            rotary: Any = {"base": self.rope_theta, "pairs": self.rope_pairs, "scaling": self.rope_scaling}
            q, k = (rotate(a, start + jnp.arange(T) if packed is None else packed[0], **rotary) for a in (q, k))
        if stored is not None:
            k, v = (jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, 1)
                    for old, new in zip(stored, (k, v), strict=True))  # fmt: skip
            stored = (k, v)
        slopes = alibi_slopes(H) if self.positions == "alibi" else None
        pairs = Pairs(True, None if packed is None else packed[1], slopes, start)
        # Keys in a cache are more than the queries, and are whole on each device.
        how: Any = {"kind": self.attention, "split": self.split_attention} if stored is None else {"kind": "plain"}
        y = attend(q, k.astype(q.dtype), v.astype(q.dtype), pairs, **how)
        return self.dense(D, "merge", ends_branch=True)(y.reshape(B, T, H * K)), stored

    def transform(self, x: Array) -> Array:
        """The position-wise MLP, or the mixture of experts in its place."""
        hidden = self.mlp_dim or 4 * self.width
        if self.experts.count:
            starts, biased = (0.02, 0.02 / (2 * self.layers) ** 0.5), self.biases == "all"
            mlp: Any = self.mlp
            return MixtureOfExperts(self.experts, hidden, mlp, biased, starts, name="mixture")(x)
        h = feed_forward(self.mlp, self.dense(hidden, "up")(x), lambda: self.dense(hidden, "gate")(x))
        return self.dense(x.shape[-1], "down", ends_branch=True)(h)


def make_norm(kind: str, epsilon: float, name: str) -> nn.Module:
    """A normalisation over the last dim, with statistics in float32."""
    return (nn.RMSNorm if kind == "rms" else LayerNorm)(epsilon=epsilon, name=name)
