"""A mostly recurrent language model: Griffin, in the form of RecurrentGemma (De et al. 2024, Botev et al. 2024).

Shapes: `B` batch, `T` positions of this call, `W` window, `S` positions in the cache (at most W - 1), `D` width, `R` numbers
in a recurrent state, `N` blocks of a gate, `C` taps of the convolution, `H` query heads, `G` key and value heads, `K` numbers
a head, `F` hidden units, `V` vocabulary.

Two of three blocks mix positions by a short convolution and a gated linear recurrence, the third by attention to the last W
positions. The size of the cache therefore does not grow with the text.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.wide import wide
from jaxnets.models.activations import GATES, Gate
from jaxnets.models.layers import Dense, Embed, Remat, check_layers, rematerialised
from jaxnets.ops import name_axes
from jaxnets.ops.attend import Kind, attend
from jaxnets.ops.attention_blocks import Pairs, real_keys
from jaxnets.ops.positions import rotate
from jaxnets.ops.scan import linear_recurrence

# {"states": [layers, B, R], "tails": [layers, B, C - 1, R], "keys": [layers, B, S, G, K], "values": the same, "length": int32}
Cache = dict[str, Array]
# The paper's constant c in `a = sigmoid(L)^(c r)`.
SHARPNESS = 8.0


class HybridLanguageModel(nn.Module):
    """Logits of the next token at every position, from the tokens up to it; called like `LanguageModel`."""

    vocab_size: int | None = None
    """Vocabulary size; None: that of the data."""
    layers: int = 6
    """Number of blocks."""
    width: int = 128
    """Width of a token's embedding and hidden states."""
    pattern: tuple[Literal["recurrent", "attention"], ...] = ("recurrent", "recurrent", "attention")
    """Kind of each block in order; repeats until all blocks have one."""
    recurrent_width: int | None = None
    """Numbers in a recurrent state; None: the width."""
    gate_blocks: int = 4
    """Number of blocks in the block-diagonal matrix of a gate; divides the recurrent width."""
    convolution: int = 4
    """Positions in the causal convolution before the recurrence, the current one included."""
    fresh_decays: tuple[float, float] = (0.9, 0.999)
    """Range of the initial decay of a state per step at a recurrence gate of 1. The paper's range is a memory of 10 to 1000
    steps."""
    window: int = 64
    """Positions in the attention window, the current one included."""
    heads: int = 4
    """Attention heads; each has width / heads numbers."""
    kv_heads: int | None = 1
    """Heads of keys and values, a divisor of `heads`; None: as many as `heads`."""
    rope_theta: float = 10_000.0
    """Longest wavelength of the rotary positions of attention, in units of 2 pi tokens."""
    mlp_dim: int | None = None
    """Hidden units of the MLP; None: three times the width."""
    mlp: Gate = "geglu"
    """Activation of the gate of the MLP: GELU (tanh form) or SiLU."""
    biases: Literal["most", "none"] = "none"
    """Which linear maps have a bias; most: all but query, key and value (RecurrentGemma). Recurrent gates always have one."""
    norm_epsilon: float = 1e-6
    """Added to the mean square before the square root."""
    embedding: Literal["tied", "untied"] = "tied"
    """Whether the output layer is the embedding's transpose."""
    dropout: float = 0.0
    """Dropout rate after the embedding and after each half of a block while training, in [0, 1)."""
    attention: Kind = "plain"
    """flash: the scores of all pairs are never in memory at once, and those of blocks outside of all windows are not computed
    (`ops/flash_attention.py`). With a cache it is plain. Both have the same parameters."""
    remat: Remat = "none"
    """Which results of a block the backward pass computes again, to save memory: see `Remat` in `layers.py`."""

    length: ClassVar[None] = None  # no limit on the length of a text

    def __post_init__(self) -> None:
        check_layers(self)
        for name in ("recurrent_width", "gate_blocks", "convolution", "window"):
            if (size := getattr(self, name)) is not None and size < 1:
                raise ValueError(f"HybridLanguageModel.{name} is at least 1, got {size}")
        if not self.pattern:
            raise ValueError("HybridLanguageModel.pattern names at least one block, got ()")
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(
                f"HybridLanguageModel.width {self.width} / heads {self.heads} is not an even number, which rotary "
                f"positions need; change one"
            )
        if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
            raise ValueError(f"HybridLanguageModel.kv_heads {self.kv_heads} does not divide heads {self.heads}")
        if (self.recurrent_width or self.width) % self.gate_blocks:
            raise ValueError(
                f"HybridLanguageModel.gate_blocks {self.gate_blocks} does not divide the recurrent width "
                f"{self.recurrent_width or self.width}"
            )
        if not 0 < self.fresh_decays[0] <= self.fresh_decays[1] < 1:
            raise ValueError(
                f"HybridLanguageModel.fresh_decays are two ascending numbers in (0, 1), got {self.fresh_decays}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"HybridLanguageModel.dropout is a probability in [0, 1), got {self.dropout}")
        super().__post_init__()

    @nn.compact
    def __call__(self, tokens: Array, *, train: bool = False, cache: Cache | None = None) -> Any:
        """Logits `[B, T, V]` float32 of tokens `[B, T]`.

        With a `cache` (see `empty_cache`) the tokens continue the cached text, and the result is (logits, updated cache).
        """
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(
                f"HybridLanguageModel takes tokens [batch, positions] of integers, got {tokens.dtype}{list(tokens.shape)}"
            )
        init = nn.initializers.normal(0.02)
        embed = Embed(self.vocab_size or 1, self.width, embedding_init=init, name="embedding")
        x = name_axes(embed(tokens), "batch", "length", "embed")
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        start: Array | int = 0 if cache is None else cache["length"]
        kind = rematerialised(Block, self.remat, static=(4,))
        left: dict[str, list[Any]] = {"recurrent": [], "attention": []}
        for index, mixes in enumerate(self.kinds):
            names = ("states", "tails") if mixes == "recurrent" else ("keys", "values")
            stored = None if cache is None else tuple(cache[name][len(left[mixes])] for name in names)
            block = kind(mixes, self.layers, self._mixer(mixes), self.mlp_dim or 3 * self.width, self.mlp,
                         self.biases == "most", self.norm_epsilon, self.dropout, name=f"block_{index}")  # fmt: skip
            x, stored = block(x, stored, start, train)
            left[mixes].append(stored)
        x = nn.RMSNorm(epsilon=self.norm_epsilon, name="final_norm")(x)
        tied = self.embedding == "tied"
        head = embed.attend if tied else Dense(self.vocab_size or 1, use_bias=False, name="output")
        logits = wide(name_axes(head(x), "batch", "length", "vocab"))
        if cache is None:
            return logits
        after = {"length": cache["length"] + tokens.shape[1]}
        for mixes, names in (("recurrent", ("states", "tails")), ("attention", ("keys", "values"))):
            for place, name in enumerate(names):
                layers = [stored[place] for stored in left[mixes]]
                after[name] = jnp.stack(layers) if layers else cache[name]
        return logits, after

    @property
    def attention_shape(self) -> tuple[int, int, int]:
        """Query heads, key and value heads, numbers a head: `(H, G, K)`."""
        return self.heads, self.kv_heads or self.heads, self.width // self.heads

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kind of each block."""
        return tuple(self.pattern[index % len(self.pattern)] for index in range(self.layers))

    def _mixer(self, mixes: str) -> tuple[Any, ...]:
        """The sizes of a block's recurrence or attention."""
        if mixes == "recurrent":
            return self.recurrent_width or self.width, self.gate_blocks, self.convolution, self.fresh_decays
        return *self.attention_shape, self.window, self.rope_theta, self.attention

    def empty_cache(self, batch: int, length: int, dtype: Any = jnp.float32) -> Cache:
        """An empty cache for texts of up to `length` positions; its size stops growing once `length` reaches the window.

        Recurrent states are always float32; `dtype` is that of the other entries.
        """
        R, S = self.recurrent_width or self.width, min(self.window - 1, length)
        recurrent, attention = (self.kinds.count(name) for name in ("recurrent", "attention"))
        shape = (attention, batch, S, self.kv_heads or self.heads, self.width // self.heads)
        return {
            "states": jnp.zeros((recurrent, batch, R), jnp.float32),
            "tails": jnp.zeros((recurrent, batch, self.convolution - 1, R), dtype),
            "keys": jnp.zeros(shape, dtype),
            "values": jnp.zeros(shape, dtype),
            "length": jnp.zeros((), jnp.int32),
        }


class Block(nn.Module):
    """Pre-norm recurrence or attention, then the pre-norm gated MLP, each with a residual connection."""

    mixes: str
    layers: int
    sizes: tuple[Any, ...]
    mlp_dim: int
    mlp: str
    biased: bool
    norm_epsilon: float
    dropout: float

    @nn.compact
    def __call__(self, x: Array, stored: Any, start: Array | int, train: bool) -> tuple[Array, Any]:
        """`[B, T, D]` to the same, and the updated cache of this block."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        y = nn.RMSNorm(epsilon=self.norm_epsilon, name="mixer_norm")(x)
        y, stored = self.recur(y, stored) if self.mixes == "recurrent" else self.attend(y, stored, start)
        x = x + drop(y)
        y = nn.RMSNorm(epsilon=self.norm_epsilon, name="mlp_norm")(x)
        gate = self.dense(self.mlp_dim, "gate")(y)
        gate = GATES[self.mlp](gate)
        y = self.dense(x.shape[-1], "down", ends_branch=True)(gate * self.dense(self.mlp_dim, "up")(y))
        return x + drop(y), stored

    def dense(self, width: int, name: str, *, ends_branch: bool = False) -> nn.Dense:
        """A dense layer. At the end of a branch its initial weights are divided by `sqrt(2 layers)` (GPT-2)."""
        init = nn.initializers.normal(0.02 / (2 * self.layers) ** 0.5 if ends_branch else 0.02)
        bias = self.biased and name not in ("query", "key", "value")
        return Dense(width, use_bias=bias, kernel_init=init, name=name)

    def recur(self, x: Array, stored: Any) -> tuple[Array, Any]:
        """The paper's recurrent block: convolution and recurrence on one branch, a GELU gate on the other."""
        R, N, C, decays = self.sizes
        lecun = nn.initializers.lecun_normal()
        side, y = (Dense(R, use_bias=self.biased, kernel_init=lecun, name=name)(x)
                   for name in ("side", "into"))  # fmt: skip
        state, tail = (None, jnp.zeros((x.shape[0], C - 1, R), y.dtype)) if stored is None else stored
        taps = self.param("taps", nn.initializers.normal(C**-0.5), (C, R)).astype(y.dtype)
        bias = self.param("taps_bias", nn.initializers.zeros, (R,)).astype(y.dtype)
        seen = jnp.concatenate([tail.astype(y.dtype), y], axis=1)
        # A sum of shifted copies, faster than a convolution of four taps. The last tap is the current position.
        T = y.shape[1]
        y = sum(seen[:, tap : tap + T] * taps[tap][None, None] for tap in range(C)) + bias[None, None]
        states = GatedRecurrence(N, decays, name="recurrence")(y, state)
        y = self.dense(x.shape[-1], "merge", ends_branch=True)(nn.gelu(side, approximate=True) * states.astype(x.dtype))
        return y, (states[:, -1], seen[:, T:].astype(tail.dtype))

    def attend(self, x: Array, stored: Any, start: Array | int) -> tuple[Array, Any]:
        """Attention of each position to itself and the W - 1 before it."""
        (B, T, D), (H, G, K, W, base, kind) = x.shape, self.sizes
        positions = start + jnp.arange(T)
        q = rotate(self.dense(H * K, "query")(x).reshape(B, T, H, K), positions, base=base)
        k = rotate(self.dense(G * K, "key")(x).reshape(B, T, G, K), positions, base=base)
        v = self.dense(G * K, "value")(x).reshape(B, T, G, K)
        pairs = Pairs(causal=True, window=W)
        if stored is not None:
            S = stored[0].shape[1]
            k, v = (
                jnp.concatenate([old, new.astype(old.dtype)], axis=1) for old, new in zip(stored, (k, v), strict=True)
            )
            stored = (k[:, T:], v[:, T:])
            # Negative positions are empty places in the cache.
            there = real_keys((start - S + jnp.arange(S + T) >= 0)[None], T)
            pairs, kind = Pairs(causal=True, window=W, offset=S, documents=there), "plain"
        y = attend(q, k.astype(q.dtype), v.astype(q.dtype), pairs, kind=kind)
        return self.dense(D, "merge", ends_branch=True)(y.reshape(B, T, H * K)), stored


class GatedRecurrence(nn.Module):
    """The real-gated linear recurrent unit (De et al. 2024, section 2.4), computed in float32.

    `r = sigmoid(W x + b)`, `i = sigmoid(U x + d)`, `a = sigmoid(L)^(c r)`, `h' = a h + sqrt(1 - a^2) (i x)`.
    """

    blocks: int
    fresh_decays: tuple[float, float]

    @nn.compact
    def __call__(self, x: Array, state: Array | None) -> Array:
        """States `[B, T, R]` float32 from inputs `[B, T, R]` and the state before them, `[B, R]` or None for zeros."""
        R = x.shape[-1]
        keep, take = (nn.sigmoid(self.gate(x, name)) for name in ("keep", "take"))
        decay = wide(self.param("decay", self.fresh, (R,)))
        log_a = -SHARPNESS * keep * nn.softplus(-decay)[None, None]  # log(sigmoid(L)) = -softplus(-L)
        # 1 - a^2 without cancellation. The tiny lower bound keeps the gradient of the root finite.
        input_scale = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), 1e-30))
        return linear_recurrence(jnp.exp(log_a), input_scale * take * wide(x), state)

    def fresh(self, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        """Initial logits L: `sigmoid(L)^c` is uniform in the range `fresh_decays`."""
        low, high = self.fresh_decays
        logs = jnp.log(jax.random.uniform(key, shape, dtype, low, high)) / SHARPNESS
        return logs - jnp.log(-jnp.expm1(logs))  # the logit of exp(logs)

    def gate(self, x: Array, name: str) -> Array:
        """A linear map with a block-diagonal matrix, `[B, T, R]` float32."""
        B, T, R = x.shape
        N, size = self.blocks, R // self.blocks
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=0)
        kernel = self.param(f"{name}_kernel", init, (N, size, size)).astype(x.dtype)
        bias = wide(self.param(f"{name}_bias", nn.initializers.zeros, (R,)))
        y = jnp.einsum("btni,nij->btnj", x.reshape(B, T, N, size), kernel)
        return wide(y.reshape(B, T, R)) + bias[None, None]
