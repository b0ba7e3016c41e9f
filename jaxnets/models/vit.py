"""The vision transformer: an image as a sequence of patches (Dosovitskiy et al. 2021).

Shapes: `B` batch, `H` height, `W` width, `C` channels, `P` patch, `T` patches and the class token, `D` width.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxnets.models.activations import FeedForward, feed_forward
from jaxnets.models.layers import Dense, Remat, check_layers, rematerialised
from jaxnets.models.norms import LayerNorm
from jaxnets.ops import name_axes
from jaxnets.ops.attend import Kind, attend
from jaxnets.ops.patches import to_patches


class ViT(nn.Module):
    """Patch embedding with learned positions, transformer blocks and a linear layer."""

    patch: int = 4
    """Pixels along a side of a patch; divides height and width."""
    layers: int = 6
    """Number of transformer blocks."""
    width: int = 192
    """Width of a patch's embedding and hidden states."""
    heads: int = 3
    """Attention heads; each has width / heads numbers."""
    mlp_dim: int | None = None
    """Hidden units of the MLP; None: four times the width."""
    pool: Literal["token", "mean"] = "token"
    """Input of the last layer: a class token, or the mean of all patches."""
    dropout: float = 0.0
    """Dropout rate after the embedding and after each half of a block while training, in [0, 1)."""
    mlp: FeedForward = "gelu_exact"
    """Function of the MLP between its linear maps: see `FeedForward` in `activations.py`."""
    stochastic_depth: float = 0.0
    """Probability of skipping the last block in training, in [0, 1); falls linearly to 0 for the first (Huang et al. 2016)."""
    attention: Kind = "plain"
    """flash: the scores of all pairs of patches are never in memory at once (`ops/flash_attention.py`)."""
    remat: Remat = "none"
    """Which results of a block the backward pass computes again, to save memory: see `Remat` in `layers.py`."""
    outputs: int | None = None
    """Output units; None: the number of classes in the data."""

    def __post_init__(self) -> None:
        check_layers(self)
        if self.width % self.heads:
            raise ValueError(f"ViT.width {self.width} is not divisible by heads {self.heads}; change one")
        super().__post_init__()

    @property
    def attention_shape(self) -> tuple[int, int, int]:
        """Query heads, key and value heads, numbers a head."""
        return self.heads, self.heads, self.width // self.heads

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, outputs]` of images `[B, H, W, C]`."""
        p = self.patch
        if x.ndim != 4 or x.shape[1] % p or x.shape[2] % p:
            raise ValueError(
                f"ViT cuts images [batch, height, width, channels] into patches of {p}x{p} pixels, which do not fit "
                f"{tuple(x.shape)}; choose a patch that divides height and width"
            )
        B = x.shape[0]
        # Patches and a dense layer equal the paper's convolution with window and stride of a patch.
        x = to_patches(x, p)
        x = x.reshape(B, -1, x.shape[-1])
        x = Dense(self.width, name="embedding")(x)
        if self.pool == "token":
            token = self.param("token", nn.initializers.zeros, (1, 1, self.width))
            x = jnp.concatenate([jnp.broadcast_to(token, (B, 1, self.width)).astype(x.dtype), x], axis=1)
        positions = self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], self.width))
        x = name_axes(x + positions.astype(x.dtype), "batch", "length", "embed")
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        block = rematerialised(Block, self.remat, static=(2,))
        for index in range(self.layers):
            drop = self.stochastic_depth * index / max(1, self.layers - 1)
            sizes = self.heads, self.mlp_dim or 4 * self.width
            x = block(*sizes, self.dropout, self.mlp, drop, self.attention, name=f"block_{index}")(x, train)
        x = LayerNorm(epsilon=1e-6, name="final_norm")(x)
        x = x[:, 0] if self.pool == "token" else x.mean(axis=1)
        return Dense(self.outputs or 1, name="output")(x)


class Block(nn.Module):
    """Pre-norm self-attention, then the pre-norm MLP, each with a residual connection."""

    heads: int
    mlp_dim: int
    dropout: float
    mlp: str = "gelu_exact"
    skipped: float = 0.0
    attention: Kind = "plain"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`[B, T, D]` to the same."""
        B, T, D = x.shape
        drop = nn.Dropout(self.dropout, deterministic=not train)
        skip = nn.Dropout(self.skipped, broadcast_dims=(1, 2), deterministic=not train)
        y = LayerNorm(epsilon=1e-6, name="attention_norm")(x)
        q, k, v = (self.dense(D, name)(y).reshape(B, T, self.heads, -1) for name in ("query", "key", "value"))
        y = attend(q, k, v, kind=self.attention).reshape(B, T, D)
        x = x + skip(drop(self.dense(D, "merge")(y)))
        y = LayerNorm(epsilon=1e-6, name="mlp_norm")(x)
        y = feed_forward(self.mlp, self.dense(self.mlp_dim, "up")(y), lambda: self.dense(self.mlp_dim, "gate")(y))
        return x + skip(drop(self.dense(D, "down")(y)))

    def dense(self, width: int, name: str) -> nn.Dense:
        """A dense layer with the paper's initialisation."""
        return Dense(width, kernel_init=nn.initializers.xavier_uniform(), name=name)
