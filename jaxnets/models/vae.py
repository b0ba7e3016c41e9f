"""The variational autoencoder (Kingma and Welling 2014, "Auto-Encoding Variational Bayes").

Shapes: `B` batch, `N` numbers in an example, `Z` latent numbers.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxnets.models.activations import Activation, activation, check_no_slopes
from jaxnets.models.layers import Dense, check_layers, check_shape
from jaxnets.ops import name_axes


class VAE(nn.Module):
    """A fully connected encoder to a Gaussian posterior, and a fully connected decoder.

    The module draws no random numbers: noise is an argument.
    """

    widths: tuple[int, ...] = (512, 256)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    latent: int = 20
    """Numbers in the latent code, `Z`."""
    activation: Activation = "relu"
    """The non-linearity after every hidden layer (see `Activation` in `activations.py`)."""
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
        self.posterior = Dense(2 * self.latent)
        self.decoder = [Dense(width) for width in reversed(self.widths)]
        self.output = Dense(math.prod(self.shape))

    def encode(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """Mean and log variance of `q(z | x)`, `[B, Z]` each, for inputs `[B, *shape]`."""
        x = x.reshape(x.shape[0], -1)
        for layer in self.encoder:
            x = activation(self.activation)(layer(x))
        mean, log_variance = jnp.split(self.posterior(x), 2, axis=-1)
        return mean, log_variance

    def decode(self, z: Array, *, train: bool = False) -> Array:
        """Parameters of `p(x | z)`, `[B, *shape]` (logits for pixels in [0, 1], else means), for latent codes `[B, Z]`."""
        for layer in self.decoder:
            z = name_axes(activation(self.activation)(layer(z)), "batch", "embed")
        return name_axes(self.output(z), "batch", "embed").reshape(-1, *self.shape)

    def infer(self, x: Array, noise: Array, *, train: bool = False) -> tuple[Array, Array, Array]:
        """One draw from the posterior, decoded: (parameters of `p(x | z)`, mean, log variance); `noise` is `[B, Z]`."""
        mean, log_variance = self.encode(x, train=train)
        z = mean + jnp.exp(0.5 * log_variance) * noise
        return self.decode(z, train=train), mean, log_variance

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Parameters of `p(x | z)` at the posterior's mean, `[B, *shape]`."""
        return self.decode(self.encode(x, train=train)[0], train=train)
