"""An encoder of the visible patches of an image, and a predictor of all patches (He et al. 2022; Assran et al. 2023).

Shapes: `B` batch, `H` height, `W` width, `C` channels, `T` patches, `K` visible patches, `D` width, `E` the predictor's width.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxnets.models.layers import Dense, check_layers
from jaxnets.models.norms import LayerNorm
from jaxnets.models.vit import Block
from jaxnets.ops import name_axes
from jaxnets.ops.patches import to_patches


class PatchPredictor(nn.Module):
    """A vision transformer for the visible patches only, and a smaller one that makes a prediction for every patch."""

    patch: int = 2
    """Pixels along a side of a patch; divides height and width."""
    width: int = 64
    """Width of the encoder, `D`."""
    layers: int = 3
    """Transformer blocks of the encoder."""
    heads: int = 4
    """Attention heads of both; divides both widths."""
    predictor_width: int = 48
    """Width of the predictor, `E`."""
    predictor_layers: int = 1
    """Transformer blocks of the predictor."""
    outputs: int | None = None
    """Numbers predicted for each patch; None: as many as the task needs."""

    def __post_init__(self) -> None:
        check_layers(self)
        for name in ("width", "predictor_width"):
            if getattr(self, name) % self.heads:
                raise ValueError(
                    f"PatchPredictor.{name} {getattr(self, name)} is not divisible by heads {self.heads}; change one"
                )
        super().__post_init__()

    def setup(self) -> None:
        """The two transformers."""
        self.encoder = PatchEncoder(self.patch, self.width, self.layers, self.heads)
        self.predictor = Predictor(self.predictor_width, self.predictor_layers, self.heads, self.outputs or 1)

    def patches(self, x: Array) -> Array:
        """The pixels of each patch, `[B, T, patch^2 C]`, of images `[B, H, W, C]`."""
        p = self.patch
        if x.ndim != 4 or x.shape[1] % p or x.shape[2] % p:
            raise ValueError(
                f"PatchPredictor cuts images [batch, height, width, channels] into patches of {p}x{p} pixels, which do "
                f"not fit {tuple(x.shape)}; choose a patch that divides height and width"
            )
        cut = to_patches(x, p)
        return cut.reshape(x.shape[0], -1, cut.shape[-1])

    def encode(self, x: Array, visible: Array | None = None) -> Array:
        """Features of the visible patches, `[B, K, D]`; of all patches if `visible` is None, `[B, T, D]`."""
        return self.encoder(self.patches(x), visible)

    def __call__(self, x: Array, visible: Array) -> Array:
        """Predictions for every patch, `[B, T, outputs]`.

        Args:
            x: images `[B, H, W, C]`.
            visible: `[B, K]`, the numbers of the patches that the encoder sees.
        """
        return self.predictor(self.encode(x, visible), visible, self.patches(x).shape[1])


class PatchEncoder(nn.Module):
    """Patches with learned positions, and transformer blocks."""

    patch: int
    width: int
    layers: int
    heads: int

    @nn.compact
    def __call__(self, patches: Array, visible: Array | None) -> Array:
        """`[B, T, pixels]` to `[B, K, D]`."""
        x = Dense(self.width, name="embedding")(patches)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], self.width)).astype(x.dtype)
        if visible is not None:
            x = jnp.take_along_axis(x, visible[:, :, None], axis=1)
        x = name_axes(x, "batch", "length", "embed")
        for index in range(self.layers):
            x = Block(self.heads, 4 * self.width, 0.0, name=f"block_{index}")(x, False)
        return LayerNorm(epsilon=1e-6, name="final_norm")(x)


class Predictor(nn.Module):
    """The visible patches' features at their places, one learned vector at all others, and transformer blocks."""

    width: int
    layers: int
    heads: int
    outputs: int

    @nn.compact
    def __call__(self, features: Array, visible: Array, patches: int) -> Array:
        """`[B, K, D]` to `[B, T, outputs]`."""
        x = Dense(self.width, name="embedding")(features)
        missing = self.param("missing", nn.initializers.normal(0.02), (1, 1, self.width)).astype(x.dtype)
        # A product with one-hot rows puts features at their places; its gradient needs no scatter.
        hot = (visible[:, :, None] == jnp.arange(patches)[None, None, :]).astype(x.dtype)
        x = jnp.einsum("bke,bkt->bte", x, hot) + (1 - hot.sum(axis=1))[:, :, None] * missing
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, patches, self.width)).astype(x.dtype)
        x = name_axes(x, "batch", "length", "embed")
        for index in range(self.layers):
            x = Block(self.heads, 4 * self.width, 0.0, name=f"block_{index}")(x, False)
        return Dense(self.outputs, name="output")(LayerNorm(epsilon=1e-6, name="final_norm")(x))
