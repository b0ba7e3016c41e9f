"""The nine-layer residual network that learns CIFAR-10 in minutes (Page 2018, "How to train your ResNet", myrtle.ai).

This is the form of his entry in the DAWNBench competition: https://github.com/davidcpage/cifar10-fast, `dawn.py`.

Shapes: `B` batch, `H` height, `W` width, `C` channels.
"""

import flax.linen as nn
from jax import Array

from jaxnets.models.activations import Activation, activated
from jaxnets.models.layers import Conv, Dense, check_layers
from jaxnets.models.norms import BatchNorm
from jaxnets.ops import max_pool, name_axes


class ResNet9(nn.Module):
    """A convolution, three convolutions with 2x2 max pooling (residual blocks after the first and third), a linear layer."""

    width: int = 64
    """Channels of the first convolution; each of the three layers doubles them."""
    logit_scale: float = 0.125
    """Factor of the last layer's outputs; keeps the softmax from saturating at high learning rates."""
    activation: Activation = "relu"
    """The non-linearity: see `Activation` in `activations.py`."""
    outputs: int | None = None
    """Output units; None: the number of classes in the data."""

    def __post_init__(self) -> None:
        check_layers(self)
        if not self.logit_scale > 0:
            raise ValueError(f"ResNet9.logit_scale is positive, got {self.logit_scale}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, outputs]` of images `[B, H, W, C]`, H and W at least 8."""
        if x.ndim != 4 or min(x.shape[1:3]) < 8:
            raise ValueError(
                f"ResNet9 halves images [batch, height, width, channels] three times, which needs at least 8x8 pixels, got "
                f"{tuple(x.shape)}; use larger images, or CNN with fewer stages"
            )
        x = ConvNorm(self.width, self.activation, name="prep")(x, train=train)
        for layer in (1, 2, 3):
            x = ConvNorm(self.width * 2**layer, self.activation, name=f"layer_{layer}")(x, train=train)
            x = max_pool(x)
            if layer != 2:
                y = ConvNorm(x.shape[-1], self.activation, name=f"layer_{layer}_residual_0")(x, train=train)
                x = x + ConvNorm(x.shape[-1], self.activation, name=f"layer_{layer}_residual_1")(y, train=train)
        # Max over all positions. On 32x32 images this is the 4x4 max pool of the original.
        x = name_axes(max_pool(x, (x.shape[1], x.shape[2])).reshape(x.shape[0], -1), "batch", "embed")
        return self.logit_scale * Dense(self.outputs or 1, use_bias=False, name="output")(x)


class ConvNorm(nn.Module):
    """A 3x3 convolution, batch normalisation, the activation."""

    width: int
    activation: str = "relu"

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """`[B, H, W, C]` to `[B, H, W, width]`."""
        x = Conv(
            self.width, (3, 3), padding=((1, 1), (1, 1)), use_bias=False,
            kernel_init=nn.initializers.he_normal(), name="conv",
        )(x)  # fmt: skip
        x = BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="norm")(x)
        return activated(self.activation, x, "slope")
