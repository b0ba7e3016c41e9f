"""Residual networks for small images (He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2).

Shapes: `B` batch, `H` height, `W` width, `C` channels.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxnets.models.activations import Activation, activated
from jaxnets.models.layers import Conv, Dense, Remat, check_layers, rematerialised
from jaxnets.models.norms import BatchNorm


class Block(nn.Module):
    """Two 3x3 convolutions and the shortcut around them (the paper's basic block, shortcut option A)."""

    width: int
    """Channels of the output."""
    stride: int = 1
    """2 halves height and width."""
    drop: float = 0.0
    """Probability of skipping the branch in training."""
    activation: str = "relu"
    """The non-linearity."""

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
        y = activated(self.activation, norm(name="norm_0")(y), "slope_0")
        y = norm(name="norm_1")(conv(self.width, name="conv_1")(y))
        if self.stride != 1 or x.shape[-1] != self.width:
            # Option A, without parameters: take every second pixel and pad the new channels with zeros, half on each side.
            extra = self.width - x.shape[-1]
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))
        # One draw per example for the whole branch. Dropout rescales by 1 / (1 - rate), so evaluation needs no change.
        y = nn.Dropout(self.drop, broadcast_dims=(1, 2, 3), deterministic=not train)(y)
        return activated(self.activation, x + y, "slope")


class CifarResNet(nn.Module):
    """The CIFAR-10 ResNets: depth `6n + 2`, three stages of `n` blocks with 16, 32 and 64 channels."""

    depth: int = 20
    """Weighted layers, one of 20, 32, 44, 56, 110 or any other 6n + 2."""
    width: int = 16
    """Channels of the first stage; the second and third have two and four times as many."""
    stochastic_depth: float = 0.0
    """Probability of skipping the last block in training, in [0, 1); falls linearly to 0 for the first (Huang et al. 2016)."""
    activation: Activation = "relu"
    """The non-linearity: see `Activation` in `activations.py`."""
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
        x = BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="stem_norm")(x)
        x = activated(self.activation, x, "stem_slope")
        block, each = rematerialised(Block, self.remat, static=(2,)), (self.depth - 2) // 6
        for number in range(3 * each):
            stage, index = divmod(number, each)
            stride = 2 if stage > 0 and index == 0 else 1
            drop = self.stochastic_depth * number / max(1, 3 * each - 1)
            name = f"stage_{stage}_block_{index}"
            x = block(self.width * 2**stage, stride, drop, self.activation, name=name)(x, train)
        return Dense(self.outputs or 1, name="output")(x.mean(axis=(1, 2)))
