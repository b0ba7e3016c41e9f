"""LeNet-5, a convolutional network for handwritten digits (LeCun et al. 1998, "Gradient-based learning applied to document
recognition", section II).

This is the form in common use, with 61,706 parameters for ten classes. It differs from the paper: every map of the second
convolution is connected to all six of the first (the paper leaves some out), subsampling has no weights, and the last layer
is linear (the paper's computes distances).

Shapes: `B` batch, `H` height, `W` width, `C` channels.
"""

from typing import Literal

import flax.linen as nn
from jax import Array

from jaxnets.models.activations import Activation, activated
from jaxnets.models.layers import Conv, Dense, check_layers
from jaxnets.ops import average_pool, max_pool, name_axes


class LeNet5(nn.Module):
    """Two 5x5 convolutions, each followed by subsampling, then fully connected layers of 120, 84 and the outputs."""

    activation: Activation = "tanh"
    """The non-linearity: see `Activation` in `activations.py`; the paper's is a scaled tanh."""
    pool: Literal["average", "max"] = "average"
    """How 2x2 windows are subsampled."""
    outputs: int | None = None
    """Output units; None: the number of classes in the data."""

    def __post_init__(self) -> None:
        check_layers(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, outputs]` of images `[B, 32, 32, C]`, or `[B, 28, 28, C]`, which are padded with zeros."""
        del train
        if x.ndim != 4 or x.shape[1:3] not in ((28, 28), (32, 32)):
            raise ValueError(
                f"LeNet5 needs images [batch, height, width, channels] of 28x28 or 32x32 pixels, got {tuple(x.shape)}; "
                f"use CNN for other sizes"
            )
        border = (32 - x.shape[1]) // 2
        for index, (features, pad) in enumerate(((6, border), (16, 0))):
            x = Conv(
                features, (5, 5), padding=((pad, pad), (pad, pad)),
                name=f"conv_{index}",
            )(x)  # fmt: skip
            x = activated(self.activation, x, f"slope_{index}")
            x = max_pool(x) if self.pool == "max" else average_pool(x)
        x = name_axes(x.reshape(x.shape[0], -1), "batch", "embed")
        for index, width in enumerate((120, 84)):
            x = activated(self.activation, Dense(width, name=f"dense_{index}")(x), f"slope_dense_{index}")
        return Dense(self.outputs or 1, name="output")(x)
