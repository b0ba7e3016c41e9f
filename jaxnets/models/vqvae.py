"""The vector-quantised autoencoder (van den Oord et al. 2017, "Neural Discrete Representation Learning").

Shapes: `B` batch, `H` height, `W` width, `C` channels, `h`, `w` height and width of the map of codes, `K` codes in the book,
`D` numbers in a code.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.models.layers import Conv, check_layers


class Quantised(NamedTuple):
    """What a VQ-VAE says of a batch, with all that its loss needs."""

    reconstruction: Array
    """`[B, H, W, C]`."""
    encoded: Array
    """What the encoder said, `[B, h, w, D]`."""
    chosen: Array
    """The nearest code of the book, `[B, h, w, D]`."""
    indices: Array
    """Its number, `[B, h, w]` int32 in `[0, K)`."""


class VQVAE(nn.Module):
    """Images as a small map of discrete codes: each position takes the nearest of `codes` vectors."""

    features: tuple[int, ...] = (32, 64)
    """Channels of each stage; each stage halves the image."""
    codes: int = 64
    """Vectors in the book, `K`."""
    width: int = 16
    """Numbers in each, `D`."""
    shape: tuple[int, ...] = ()
    """Shape of one example, (height, width, channels), divisible by `2 ** stages`; empty takes the data's."""

    def __post_init__(self) -> None:
        check_layers(self, filled="features")
        super().__post_init__()

    def setup(self) -> None:
        """The layers, encoder first."""
        shrink = 2 ** len(self.features)
        if len(self.shape) != 3 or any(size % shrink for size in self.shape[:2]):
            raise ValueError(
                f"VQVAE with {len(self.features)} stages needs images (height, width, channels) whose sides {shrink} divides, "
                f"got {self.shape}; use fewer stages (features)"
            )
        self.down = [self._convolution(width, 3, 2) for width in self.features]
        self.to_code = self._convolution(self.width, 1, 1)
        # As far apart as the paper's code has them: small, so that every code is near to something at first.
        self.book = self.param("book", nn.initializers.uniform(2 / self.codes), (self.codes, self.width))
        self.from_code = self._convolution(self.features[-1], 3, 1)
        self.up = [self._convolution(width, 3, 1) for width in (*reversed(self.features[:-1]), self.shape[-1])]

    def _convolution(self, width: int, window: int, stride: int) -> nn.Conv:
        return Conv(width, (window, window), strides=(stride, stride))

    def encode(self, x: Array, *, train: bool = False) -> Array:
        """What the encoder says of images `[B, H, W, C]`, not quantised yet: `[B, h, w, D]`."""
        for layer in self.down:
            x = nn.relu(layer(x))
        return self.to_code(x)

    def nearest(self, encoded: Array) -> Array:
        """Number of the nearest code, `[B, h, w]` int32."""
        # Rounded like the codes that will stand there, compared in 32 bits: codes may lie closer than 16 can tell.
        book, encoded = self.book.astype(encoded.dtype).astype(jnp.float32), encoded.astype(jnp.float32)
        # |e - c|^2 without |e|^2, which is the same for every code.
        distances = (book**2).sum(axis=-1)[None, None, None, :] - 2 * encoded @ book.T
        return jnp.argmin(distances, axis=-1).astype(jnp.int32)

    def decode(self, codes: Array, *, train: bool = False) -> Array:
        """Images `[B, H, W, C]` from codes `[B, h, w, D]`."""
        x = nn.relu(self.from_code(codes))
        for index, layer in enumerate(self.up):
            x = layer(x.repeat(2, axis=1).repeat(2, axis=2))
            x = nn.relu(x) if index + 1 < len(self.up) else x
        return x

    def quantise(self, x: Array, *, train: bool = False) -> Quantised:
        """Reconstructions of images `[B, H, W, C]`, and what lies between."""
        encoded = self.encode(x, train=train)
        indices = self.nearest(encoded)
        chosen = self.book.astype(encoded.dtype)[indices]
        # Forward the chosen code; backward its gradient goes to the encoder as if nothing had been rounded.
        straight_through = encoded + jax.lax.stop_gradient(chosen - encoded)
        return Quantised(self.decode(straight_through, train=train), encoded, chosen, indices)

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Reconstructions `[B, H, W, C]` of images `[B, H, W, C]`."""
        return self.quantise(x, train=train).reconstruction
