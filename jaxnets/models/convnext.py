"""ConvNeXt: a convolutional network with the design of a vision transformer (Liu et al. 2022, "A ConvNet for the 2020s").

The default is tiny. Small: depths (3, 3, 27, 3). Base: the depths of small and widths (128, 256, 512, 1024).

Shapes: `B` batch, `H` height, `W` width, `C` channels.
"""

import flax.linen as nn
from jax import Array

from jaxnets.models.activations import Activation, activated
from jaxnets.models.layers import Conv, Dense, Remat, check_layers, rematerialised
from jaxnets.models.norms import LayerNorm

START = nn.initializers.truncated_normal(0.02)


class ConvNeXt(nn.Module):
    """A patch stem, stages of blocks with downsampling between them, global average pooling, a linear layer."""

    depths: tuple[int, ...] = (3, 3, 9, 3)
    """Blocks in each stage."""
    widths: tuple[int, ...] = (96, 192, 384, 768)
    """Channels of each stage."""
    patch: int = 4
    """Pixels along a side of the stem's patches; 1 or 2 suits images of 32x32."""
    layer_scale: float = 1e-6
    """Initial value of a block's learned scale per channel (Touvron et al. 2021); 0: no scale."""
    stochastic_depth: float = 0.0
    """Probability of skipping the last block while training, decreasing linearly to 0 for the first (Huang et al. 2016), in
    [0, 1). The paper: 0.1 for tiny, 0.4 for small, 0.5 for base."""
    activation: Activation = "gelu_exact"
    """The non-linearity: see `Activation` in `activations.py`."""
    remat: Remat = "none"
    """Which results of a block the backward pass computes again, to save memory: see `Remat` in `layers.py`."""
    outputs: int | None = None
    """Output units; None: the number of classes in the data."""

    def __post_init__(self) -> None:
        check_layers(self)
        if len(self.depths) != len(self.widths) or not self.depths or min(self.depths) < 1:
            raise ValueError(
                f"ConvNeXt needs as many depths as widths, each at least 1, got depths {self.depths} and widths {self.widths}"
            )
        if self.patch < 1 or self.layer_scale < 0:
            raise ValueError(f"ConvNeXt needs patch >= 1 and layer_scale >= 0, got {self.patch} and {self.layer_scale}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, outputs]` of images `[B, H, W, C]`; pixels beyond the last whole patch are ignored."""
        least = self.patch * 2 ** (len(self.widths) - 1)
        if x.ndim != 4 or min(x.shape[1:3]) < least:
            raise ValueError(
                f"ConvNeXt with patch {self.patch} and {len(self.widths)} stages needs images [batch, height, width, "
                f"channels] of at least {least}x{least} pixels, got {tuple(x.shape)}; use a smaller patch, fewer stages or "
                f"larger images"
            )
        x = norm("stem_norm")(patches(self.widths[0], self.patch, "stem")(x))
        block, done = rematerialised(Block, self.remat, static=(2,)), 0
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            if stage:
                x = patches(width, 2, f"down_{stage}")(norm(f"down_norm_{stage}")(x))
            for index in range(depth):
                drop = self.stochastic_depth * done / max(1, sum(self.depths) - 1)
                layer = block(self.layer_scale, drop, self.activation, name=f"stage_{stage}_block_{index}")
                x, done = layer(x, train), done + 1
        x = norm("final_norm")(x.mean(axis=(1, 2)))
        return Dense(self.outputs or 1, kernel_init=START, name="output")(x)


class Block(nn.Module):
    """A 7x7 depthwise convolution and a position-wise MLP, with a residual connection."""

    layer_scale: float
    drop: float
    activation: str = "gelu_exact"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`[B, H, W, C]` to the same."""
        C = x.shape[-1]
        y = Conv(
            C, (7, 7), padding=((3, 3), (3, 3)), feature_group_count=C, kernel_init=START,
            name="depthwise",
        )(x)  # fmt: skip
        y = Dense(4 * C, kernel_init=START, name="up")(norm("norm")(y))
        y = activated(self.activation, y, "slope")
        y = Dense(C, kernel_init=START, name="down")(y)
        if self.layer_scale:
            scale = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (C,))
            y = y * scale.reshape(1, 1, 1, C)
        # One draw per example for the whole branch. Dropout rescales by 1 / (1 - rate), so evaluation needs no change.
        return x + nn.Dropout(self.drop, broadcast_dims=(1, 2, 3), deterministic=not train)(y)


def patches(width: int, side: int, name: str) -> nn.Conv:
    """Non-overlapping patches, each mapped to `width` channels by one linear map."""
    return Conv(
        width, (side, side), strides=side, padding="VALID", kernel_init=START,
        name=name,
    )  # fmt: skip


def norm(name: str) -> LayerNorm:
    """Layer normalisation over the channels of a position."""
    return LayerNorm(epsilon=1e-6, name=name)
