"""Residual networks for small images (He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2).

Shapes: `B` batch, `H` height, `W` width, `C` channels.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxnets.models.layers import Conv, Dense, Remat, check_layers, rematerialised
from jaxnets.models.norms import BatchNorm


class Block(nn.Module):
    """Two 3x3 convolutions and the shortcut around them (the paper's basic block, shortcut option A)."""

    width: int
    """Channels of the output."""
    stride: int = 1
    """2 halves height and width."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`[B, H, W, C]` to `[B, H / stride, W / stride, width]`."""
        conv = functools.partial(
            Conv,
            kernel_size=(3, 3),
            padding=((1, 1), (1, 1)),
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
        )
        norm = functools.partial(BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)
        y = conv(self.width, strides=(self.stride, self.stride), name="conv_0")(x)
        y = nn.relu(norm(name="norm_0")(y))
        y = norm(name="norm_1")(conv(self.width, name="conv_1")(y))
        if self.stride != 1 or x.shape[-1] != self.width:
            # Option A, without parameters: take every second pixel and pad the new channels with zeros, half on each side.
            extra = self.width - x.shape[-1]
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))
        return nn.relu(x + y)


class CifarResNet(nn.Module):
    """The CIFAR-10 ResNets: depth `6n + 2`, three stages of `n` blocks with 16, 32 and 64 channels."""

    depth: int = 20
    """Weighted layers, one of 20, 32, 44, 56, 110 or any other 6n + 2."""
    width: int = 16
    """Channels of the first stage; the second and third have two and four times as many."""
    remat: Remat = "none"
    """Which results of a block the backward pass computes again, to save memory: see `Remat` in `layers.py`."""
    outputs: int | None = None
    """Output units; None: the number of classes in the data."""

    def __post_init__(self) -> None:
        check_layers(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, outputs]` of images `[B, H, W, C]`."""
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"CifarResNet depth is 6n + 2 (8, 14, 20, 32, 44, 56, 110, ...), got {self.depth}")
        if x.ndim != 4:
            raise ValueError(f"CifarResNet needs images [batch, height, width, channels], got {tuple(x.shape)}")
        x = Conv(
            self.width,
            (3, 3),
            padding=((1, 1), (1, 1)),
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            name="stem",
        )(x)
        x = nn.relu(BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="stem_norm")(x))
        block = rematerialised(Block, self.remat, static=(2,))
        for stage in range(3):
            for index in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and index == 0 else 1
                x = block(self.width * 2**stage, stride, name=f"stage_{stage}_block_{index}")(x, train)
        return Dense(self.outputs or 1, name="output")(x.mean(axis=(1, 2)))
