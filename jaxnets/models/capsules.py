"""Capsules: vectors whose length says whether something is there and whose direction says how (Sabour et al. 2017, "Dynamic
routing between capsules").

Train it with `MarginClassification`. The paper's decoder, which draws the image again from its capsule, is left out.

Shapes: `B` batch, `H` height, `W` width, `N` capsules below, `C` capsules above (classes), `D` numbers in one below,
`E` in one above.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxnets.models.layers import Conv, check_layers

# Keeps the gradient of a square root finite at 0, and is not seen elsewhere.
LEAST = 1e-12


class CapsNet(nn.Module):
    """A convolution, a convolution whose channels are capsules, and one capsule for each class, found by agreement."""

    width: int = 256
    """Channels of the first convolution."""
    window: int = 9
    """Pixels along a side of both convolutions' windows; neither pads, the second halves."""
    maps: int = 32
    """Capsules at each position of the second convolution."""
    below: int = 8
    """Numbers in each of those."""
    above: int = 16
    """Numbers in the capsule of a class."""
    rounds: int = 3
    """Rounds of routing by agreement."""
    outputs: int | None = None
    """Capsules above; None takes as many as the data have classes."""

    def __post_init__(self) -> None:
        check_layers(self)
        for name in ("window", "maps", "below", "above", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"CapsNet.{name} is at least 1, got {getattr(self, name)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """The length of each class's capsule, `[B, outputs]` in [0, 1), of images `[B, H, W, channels]`."""
        del train
        w, D = self.window, self.below
        if x.ndim != 4 or min(x.shape[1:3]) < 2 * w - 1:
            raise ValueError(
                f"CapsNet with window={w} needs images [batch, height, width, channels] of at least {2 * w - 1}x{2 * w - 1} "
                f"pixels, got {tuple(x.shape)}; use a smaller window"
            )
        x = nn.relu(self.convolution(self.width, 1, "conv")(x))
        x = self.convolution(self.maps * D, 2, "primary")(x)
        x = squash(x.reshape(x.shape[0], -1, D))
        start = nn.initializers.normal(0.05)
        maps = self.param("transformations", start, (x.shape[1], self.outputs or 1, D, self.above))
        return length(route(jnp.einsum("bnd,ncde->bnce", x, maps.astype(x.dtype)), self.rounds))

    def convolution(self, features: int, stride: int, name: str) -> nn.Conv:
        """A convolution that sees whole windows only."""
        return Conv(
            features, (self.window, self.window), strides=stride, padding="VALID",
            name=name,
        )  # fmt: skip


def route(votes: Array, rounds: int) -> Array:
    """Routing by agreement: capsules above `[B, C, E]` from what each capsule below says of each, `[B, N, C, E]`.

    Each capsule below shares one vote among those above, evenly at first; in each round, more goes to where it agreed with the
    outcome. Gradients go through all rounds.
    """
    B, N, C, _ = votes.shape
    dtype, votes = votes.dtype, votes.astype(jnp.float32)  # half precision rounds agreements away
    logits = jnp.zeros((B, N, C), votes.dtype)
    above = squash(jnp.einsum("bnc,bnce->bce", nn.softmax(logits, axis=-1), votes))
    for _ in range(rounds - 1):
        logits = logits + jnp.einsum("bnce,bce->bnc", votes, above)
        above = squash(jnp.einsum("bnc,bnce->bce", nn.softmax(logits, axis=-1), votes))
    return above.astype(dtype)


def squash(x: Array) -> Array:
    """The same direction and a length below 1: `|x|^2 / (1 + |x|^2)`."""
    wide = x.astype(jnp.float32)
    square = jnp.square(wide).sum(axis=-1, keepdims=True)
    return (wide * jnp.sqrt(square + LEAST) / (1 + square)).astype(x.dtype)


def length(x: Array) -> Array:
    """The length of each vector, `[..., E]` to `[...]`; its gradient at 0 is 0."""
    return jnp.sqrt(jnp.square(x.astype(jnp.float32)).sum(axis=-1) + LEAST).astype(x.dtype)
