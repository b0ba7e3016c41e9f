"""The vector-quantised autoencoder (van den Oord et al. 2017, "Neural Discrete Representation Learning").

Shapes: `B` batch, `H` height, `W` width, `C` channels, `h`, `w` height and width of the map of codes, `K` codes in the
codebook, `D` numbers in a code.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.models.layers import Conv, check_layers


class Quantised(NamedTuple):
    """The outputs of a VQ-VAE for a batch, with what its loss needs."""

    reconstruction: Array
    """`[B, H, W, C]`."""
    encoded: Array
    """Output of the encoder, `[B, h, w, D]`."""
    chosen: Array
    """The nearest code of the codebook, `[B, h, w, D]`."""
    indices: Array
    """Index of that code, `[B, h, w]` int32 in `[0, K)`."""


class VQVAE(nn.Module):
    """Encode images as a small map of discrete codes: each position takes the nearest of `codes` vectors."""

    features: tuple[int, ...] = (32, 64)
    """Channels of each stage; each stage halves the image."""
    codes: int = 64
    """Vectors in the codebook, `K`."""
    width: int = 16
    """Numbers in a code, `D`."""
    shape: tuple[int, ...] = ()
    """Shape of one example, (height, width, channels), divisible by `2 ** stages`; empty: that of the data."""

    def __post_init__(self) -> None:
        check_layers(self, filled="features")
        super().__post_init__()

    def setup(self) -> None:
        """The layers, encoder first."""
        shrink = 2 ** len(self.features)
        if len(self.shape) != 3 or any(size % shrink for size in self.shape[:2]):
            raise ValueError(
                f"VQVAE with {len(self.features)} stages needs images (height, width, channels) with sides divisible by "
                f"{shrink}, got {self.shape}; use fewer stages (features)"
            )
        self.down = [self._convolution(width, 3, 2) for width in self.features]
        self.to_code = self._convolution(self.width, 1, 1)
        # A small range, as in the paper's code, so that at first every code is near some encoder output.
        self.book = self.param("book", nn.initializers.uniform(2 / self.codes), (self.codes, self.width))
        self.from_code = self._convolution(self.features[-1], 3, 1)
        self.up = [self._convolution(width, 3, 1) for width in (*reversed(self.features[:-1]), self.shape[-1])]

    def _convolution(self, width: int, window: int, stride: int) -> nn.Conv:
        return Conv(width, (window, window), strides=(stride, stride))

    def encode(self, x: Array, *, train: bool = False) -> Array:
        """Output of the encoder for images `[B, H, W, C]`, before quantisation: `[B, h, w, D]`."""
        for layer in self.down:
            x = nn.relu(layer(x))
        return self.to_code(x)

    def nearest(self, encoded: Array) -> Array:
        """Index of the nearest code, `[B, h, w]` int32."""
        # Codes are rounded to the dtype they are used in, but compared in float32: 16 bits may not separate them.
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
        """Reconstructions of images `[B, H, W, C]`, with encoder outputs, chosen codes and indices."""
        encoded = self.encode(x, train=train)
        indices = self.nearest(encoded)
        chosen = self.book.astype(encoded.dtype)[indices]
        # Straight-through estimator: forward the chosen code, backward the identity to the encoder.
        straight_through = encoded + jax.lax.stop_gradient(chosen - encoded)
        return Quantised(self.decode(straight_through, train=train), encoded, chosen, indices)

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Reconstructions `[B, H, W, C]` of images `[B, H, W, C]`."""
        return self.quantise(x, train=train).reconstruction
