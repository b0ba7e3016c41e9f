"""Autoencoders: networks that reconstruct their input from a code with fewer numbers.

Shapes: `B` batch, `N` numbers in an example, `Z` numbers in its code, `H` height, `W` width, `C` channels.
"""

import math

import flax.linen as nn
from jax import Array

from jaxnets.models.activations import Activation, activation, check_no_slopes
from jaxnets.models.layers import Conv, Dense, check_layers, check_shape
from jaxnets.ops import name_axes


class Autoencoder(nn.Module):
    """Fully connected encoder and mirrored decoder (Hinton and Salakhutdinov 2006, without layerwise pretraining).

    Without hidden layers it is linear: `x W V + b`. Its optimal code spans the first `Z` principal components, in a different
    basis (Baldi and Hornik 1989).
    """

    widths: tuple[int, ...] = (256, 64)
    """Units of the encoder's hidden layers; the decoder has them in reverse. Empty: a linear autoencoder."""
    code: int = 16
    """Numbers in the code, `Z`."""
    activation: Activation = "relu"
    """The non-linearity after every hidden layer (see `Activation` in `activations.py`); the code and the output have none."""
    shape: tuple[int, ...] = ()
    """Shape of one example; empty: that of the data."""

    def __post_init__(self) -> None:
        check_layers(self)
        check_no_slopes(self)
        super().__post_init__()

    def setup(self) -> None:
        """The layers, encoder first."""
        check_shape(self)
        self.encoder = [Dense(width) for width in self.widths]
        self.code_layer = Dense(self.code)
        self.decoder = [Dense(width) for width in reversed(self.widths)]
        self.output = Dense(math.prod(self.shape))

    def encode(self, x: Array, *, train: bool = False) -> Array:
        """Codes `[B, Z]` of inputs `[B, *shape]`."""
        x = x.reshape(x.shape[0], -1)
        for layer in self.encoder:
            x = activation(self.activation)(layer(x))
        return self.code_layer(x)

    def decode(self, z: Array, *, train: bool = False) -> Array:
        """Reconstructions `[B, *shape]` from codes `[B, Z]`."""
        for layer in self.decoder:
            z = name_axes(activation(self.activation)(layer(z)), "batch", "embed")
        return name_axes(self.output(z), "batch", "embed").reshape(-1, *self.shape)

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Reconstructions `[B, *shape]` of inputs `[B, *shape]`."""
        return self.decode(self.encode(x, train=train), train=train)


class ConvAutoencoder(nn.Module):
    """Strided convolutions, a dense code and a mirrored decoder (Masci et al. 2011, with strides instead of pooling).

    Each decoder stage upsamples by nearest neighbour, then convolves. This avoids checkerboard artefacts (Odena et al. 2016).
    """

    features: tuple[int, ...] = (32, 64)
    """Channels of each stage of the encoder; each stage halves the image, rounding up."""
    code: int = 32
    """Numbers in the code, `Z`."""
    activation: Activation = "relu"
    """The non-linearity after every hidden layer: see `Activation` in `activations.py`."""
    shape: tuple[int, ...] = ()
    """Shape of one example, (height, width, channels); empty: that of the data."""

    def __post_init__(self) -> None:
        check_layers(self, filled="features")
        check_no_slopes(self)
        super().__post_init__()

    def setup(self) -> None:
        """The layers, encoder first."""
        if len(self.shape) != 3:
            raise ValueError(
                f"ConvAutoencoder needs images (height, width, channels), got {self.shape}; use Autoencoder"
            )
        self.down = [self._convolution(width, 2) for width in self.features]
        self.code_layer = Dense(self.code)
        self.seed = Dense(math.prod(self._smallest))
        # The last decoder stage outputs the channels of the image.
        self.up = [self._convolution(width, 1) for width in (*reversed(self.features[:-1]), self.shape[-1])]

    def _convolution(self, width: int, stride: int) -> nn.Conv:
        return Conv(width, (3, 3), strides=(stride, stride))

    @property
    def _smallest(self) -> tuple[int, int, int]:
        """Shape of the feature map between the convolutions and the code."""
        shrink = 2 ** len(self.features)
        return -(-self.shape[0] // shrink), -(-self.shape[1] // shrink), self.features[-1]

    def encode(self, x: Array, *, train: bool = False) -> Array:
        """Codes `[B, Z]` of images `[B, H, W, C]`."""
        for layer in self.down:
            x = activation(self.activation)(layer(x))
        return self.code_layer(name_axes(x.reshape(x.shape[0], -1), "batch", "embed"))

    def decode(self, z: Array, *, train: bool = False) -> Array:
        """Images `[B, H, W, C]` from codes `[B, Z]`."""
        x = activation(self.activation)(self.seed(z)).reshape(-1, *self._smallest)
        for index, layer in enumerate(self.up):
            x = layer(x.repeat(2, axis=1).repeat(2, axis=2))
            x = activation(self.activation)(x) if index + 1 < len(self.up) else x
        # The encoder rounds odd sizes up, so crop to the size of the input.
        return x[:, : self.shape[0], : self.shape[1]]

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Reconstructions `[B, H, W, C]` of images `[B, H, W, C]`."""
        return self.decode(self.encode(x, train=train), train=train)
