"""Convolutional generator and critic (Radford et al. 2016, "Unsupervised Representation Learning with DCGAN").

Shapes: `B` batch, `Z` latent numbers, `H` height, `W` width, `C` channels.
"""

from typing import Literal

import flax.linen as nn
from jax import Array

from jaxnets.models.layers import Conv, Dense, check_layers
from jaxnets.models.norms import BatchNorm, LayerNorm
from jaxnets.ops import name_axes

# The paper's initialisation of all weights.
NARROW = nn.initializers.normal(0.02)


class DCGANGenerator(nn.Module):
    """Latent vectors to images in [-1, 1]: a dense layer to a small map, then transposed convolutions of stride 2."""

    features: tuple[int, ...] = (128, 64)
    """Channels before each doubling of the size; 28x28 takes two doublings, from 7x7."""
    shape: tuple[int, ...] = ()
    """Shape of an image, (height, width, channels); empty: that of the data."""

    # Range of the outputs; tasks compare it with the range of the data.
    reach = (-1.0, 1.0)

    def __post_init__(self) -> None:
        check_layers(self, filled="features")
        super().__post_init__()

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        """Images `[B, H, W, C]` from latent vectors `[B, Z]`; `train` switches batch statistics on."""
        if len(self.shape) != 3:
            raise ValueError(f"DCGANGenerator makes images (height, width, channels), got {self.shape}; use MLP")
        height, width, channels = self.shape
        shrink = 2 ** len(self.features)
        small = (-(-height // shrink), -(-width // shrink), self.features[0])
        x = z.reshape(z.shape[0], -1)
        x = Dense(small[0] * small[1] * small[2], use_bias=False, kernel_init=NARROW, name="seed")(x)
        x = x.reshape(-1, *small)
        x = nn.relu(BatchNorm(use_running_average=not train, momentum=0.9, name="norm_seed")(x))
        for index, wide in enumerate((*self.features[1:], channels)):
            last = index + 1 == len(self.features)
            # A transposed convolution, as a convolution of the zero-dilated input.
            x = Conv(
                wide,
                (4, 4),
                input_dilation=(2, 2),
                padding=((2, 2), (2, 2)),
                use_bias=last,
                kernel_init=NARROW,
                name=f"up_{index}",
            )(x)
            if not last:
                x = BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm_{index}")(x)
                x = nn.relu(x)
        return nn.tanh(x)[:, :height, :width]


class DCGANCritic(nn.Module):
    """Strided convolutions to one score per image; a higher score means more likely real."""

    features: tuple[int, ...] = (64, 128)
    """Channels of each stage; each halves the image."""
    norm: Literal["batch", "layer", "none"] = "batch"
    """Normalisation after every convolution but the first; a gradient penalty requires layer or none."""
    outputs: int | None = None
    """Output units; None: as many as the task needs (1)."""

    def __post_init__(self) -> None:
        check_layers(self, filled="features")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Scores `[B, 1]` of images `[B, H, W, C]`; `train` switches batch statistics on."""
        if x.ndim != 4:
            raise ValueError(
                f"DCGANCritic needs images [batch, height, width, channels], got {tuple(x.shape)}; use MLP"
            )
        for index, wide in enumerate(self.features):
            x = Conv(
                wide,
                (4, 4),
                strides=(2, 2),
                use_bias=index == 0 or self.norm == "none",
                kernel_init=NARROW,
                name=f"down_{index}",
            )(x)
            if index and self.norm == "batch":
                x = BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm_{index}")(x)
            elif index and self.norm == "layer":
                x = LayerNorm(name=f"norm_{index}")(x)
            x = nn.leaky_relu(x, 0.2)
        x = name_axes(x.reshape(x.shape[0], -1), "batch", "embed")
        return Dense(self.outputs or 1, kernel_init=NARROW, name="output")(x)
