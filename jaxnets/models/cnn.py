"""A small convolutional network in the manner of LeNet (LeCun et al. 1998).

Shapes: `B` batch, `H` height, `W` width, `C` channels, `F` units.
"""

import flax.linen as nn
from jax import Array

from jaxnets.models.activations import Activation, activated
from jaxnets.models.layers import Conv, Dense, check_layers
from jaxnets.models.norms import BatchNorm
from jaxnets.ops import max_pool, name_axes


class CNN(nn.Module):
    """Stages of 3x3 convolutions, each halving the image by max pooling, then fully connected layers."""

    features: tuple[int, ...] = (32, 64)
    """Channels of each stage; each stage ends in a 2x2 max pool."""
    convolutions: int = 1
    """Convolutions in each stage, each followed by the activation."""
    batch_norm: bool = False
    """Batch normalisation after every convolution (Ioffe and Szegedy 2015)."""
    dense: tuple[int, ...] = (128,)
    """Units of the fully connected hidden layers."""
    dropout: float = 0.0
    """Probability of dropping a unit before each fully connected layer while training, in [0, 1)."""
    outputs: int | None = None
    """Output units; None: the number of classes in the data."""
    activation: Activation = "relu"
    """The non-linearity after every hidden layer: see `Activation` in `activations.py`."""

    def __post_init__(self) -> None:
        check_layers(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, outputs]` of images `[B, H, W, C]`; H and W at least `2 ** len(features)`."""
        least = 2 ** len(self.features)
        if x.ndim != 4:
            raise ValueError(
                f"CNN needs images [batch, height, width, channels], got {tuple(x.shape)}; reshape them, or use MLP "
                f"(vectors) or RNN (sequences)"
            )
        if min(x.shape[1:3]) < least:
            raise ValueError(
                f"CNN with {len(self.features)} stages needs images [batch, height, width, channels] of at least "
                f"{least}x{least} pixels, got {tuple(x.shape)}; use fewer stages (features) or larger images"
            )
        for stage, width in enumerate(self.features):
            for index in range(self.convolutions):
                name = f"{stage}_{index}"
                x = Conv(
                    width,
                    (3, 3),
                    use_bias=not self.batch_norm,
                    name=f"conv_{name}",
                )(x)
                if self.batch_norm:
                    x = BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm_{name}")(x)
                x = activated(self.activation, x, f"slope_{name}")
            x = max_pool(x)
        x = name_axes(x.reshape(x.shape[0], -1), "batch", "embed")
        for index, width in enumerate(self.dense):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = activated(self.activation, Dense(width, name=f"dense_{index}")(x), f"slope_dense_{index}")
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Dense(self.outputs or 1, name="output")(x)
