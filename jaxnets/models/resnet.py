"""Residual networks for large images (He et al. 2016), in the form known as v1.5.

v1.5 halves the image in the 3x3 convolution of a bottleneck, not in the 1x1 before it (Goyal et al. 2017 and torchvision).

Shapes: `B` batch, `H` height, `W` width, `C` channels.
"""

import functools
from typing import Any, Literal

import flax.linen as nn
from jax import Array

from jaxnets.models.activations import Activation, activated
from jaxnets.models.layers import Conv, Dense, Remat, check_layers, rematerialised
from jaxnets.models.norms import BatchNorm
from jaxnets.ops import blur_pool

# Blocks in each of the four stages.
STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class ResNet(nn.Module):
    """A stem of stride 4 in all, four stages of residual blocks, global average pooling, one linear layer."""

    depth: Literal[18, 34, 50, 101, 152] = 50
    """Weighted layers; from 50 on, blocks are bottlenecks."""
    width: int = 64
    """Channels of the first stage; each further stage has twice as many (times four at the end of a bottleneck)."""
    squeeze: int = 0
    """Reduction ratio of squeeze-and-excitation in each block (Hu et al. 2018: 16); 0: none."""
    stochastic_depth: float = 0.0
    """Probability of skipping the last block in training, in [0, 1); falls linearly to 0 for the first (Huang et al. 2016)."""
    downsample: Literal["stride", "blur"] = "stride"
    """How images are halved after the stem's convolution. stride: by strides; blur: by subsampling after a blur (Zhang 2019),
    which makes a network less sensitive to shifts and costs more time."""
    activation: Activation = "relu"
    """The non-linearity: see `Activation` in `activations.py`."""
    remat: Remat = "none"
    """Which results of a block the backward pass computes again, to save memory: see `Remat` in `layers.py`."""
    outputs: int | None = None
    """Output units; None: the number of classes in the data."""

    def __post_init__(self) -> None:
        check_layers(self)
        if self.depth not in STAGES:
            raise ValueError(f"ResNet depth is one of {', '.join(map(str, STAGES))}, got {self.depth}")
        if self.width < 1 or self.squeeze < 0:
            raise ValueError(f"ResNet needs width >= 1 and squeeze >= 0, got {self.width} and {self.squeeze}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, outputs]` of images `[B, H, W, C]`, H and W at least 32."""
        if x.ndim != 4 or min(x.shape[1:3]) < 32:
            raise ValueError(
                f"ResNet needs images [batch, height, width, channels] of at least 32x32 pixels, got {tuple(x.shape)}; for "
                f"smaller ones use CifarResNet"
            )
        x = convolution(self.width, 7, 2, "stem")(x)
        x = activated(self.activation, normalisation(train, "stem_norm")(x), "stem_slope")
        blur = self.downsample == "blur"
        x = nn.max_pool(x, (3, 3), strides=(1, 1) if blur else (2, 2), padding=((1, 1), (1, 1)))
        x = blur_pool(x) if blur else x
        kind = rematerialised(Block, self.remat, static=(2,))
        stages, done = STAGES[self.depth], 0
        for stage, count in enumerate(stages):
            for index in range(count):
                block = kind(
                    width=self.width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    bottleneck=self.depth >= 50,
                    squeeze=self.squeeze,
                    blur=blur,
                    drop=self.stochastic_depth * done / max(1, sum(stages) - 1),
                    activation=self.activation,
                    name=f"stage_{stage}_block_{index}",
                )
                x, done = block(x, train), done + 1
        return Dense(self.outputs or 1, name="output")(x.mean(axis=(1, 2)))


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1, and the shortcut around them."""

    width: int
    stride: int
    bottleneck: bool
    squeeze: int
    blur: bool
    drop: float
    activation: str = "relu"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`[B, H, W, C]` to `[B, H / stride, W / stride, width (times 4)]`."""
        w, s = self.width, self.stride
        plan = [(w, 1, 1), (w, 3, s), (4 * w, 1, 1)] if self.bottleneck else [(w, 3, s), (w, 3, 1)]
        y = x
        for index, (features, window, stride) in enumerate(plan):
            y = convolution(features, window, 1 if self.blur else stride, f"conv_{index}")(y)
            y = normalisation(train, f"norm_{index}")(y)
            y = activated(self.activation, y, f"slope_{index}") if index < len(plan) - 1 else y
            y = blur_pool(y) if self.blur and stride == 2 else y
        if self.squeeze:
            y = y * self.excite(y)
        if x.shape != y.shape:
            x = blur_pool(x) if self.blur and s == 2 else x
            x = convolution(y.shape[-1], 1, 1 if self.blur else s, "shortcut")(x)
            x = normalisation(train, "shortcut_norm")(x)
        # One draw per example for the whole branch. Dropout rescales by 1 / (1 - rate), so evaluation needs no change.
        y = nn.Dropout(self.drop, broadcast_dims=(1, 2, 3), deterministic=not train)(y)
        return activated(self.activation, x + y, "slope")

    def excite(self, y: Array) -> Array:
        """Squeeze-and-excitation: a weight in (0, 1) for each channel, from all channel means: `[B, 1, 1, C]`."""
        middle = max(1, y.shape[-1] // self.squeeze)
        z = nn.relu(Dense(middle, name="squeeze")(y.mean(axis=(1, 2))))
        return nn.sigmoid(Dense(y.shape[-1], name="excite")(z))[:, None, None, :]


def convolution(features: int, window: int, stride: int, name: str) -> nn.Conv:
    """A convolution without a bias, padded so that an odd window is centred."""
    pad = (window - 1) // 2
    return Conv(
        features, (window, window), strides=stride, padding=((pad, pad), (pad, pad)), use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        name=name,
    )  # fmt: skip


def normalisation(train: bool, name: str) -> Any:
    """Batch normalisation with torchvision's constants."""
    norm = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-5)
    return norm(use_running_average=not train, name=name)
