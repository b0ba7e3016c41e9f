"""A capsule network (Sabour et al. 2017, "Dynamic routing between capsules").

A capsule is a vector: its length is the probability that an entity is present, its direction describes the entity. Train the
network with `MarginClassification`. The paper's reconstruction decoder is left out.

Shapes: `B` batch, `H` height, `W` width, `N` primary capsules, `C` class capsules, `D` numbers in a primary capsule,
`E` numbers in a class capsule.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxnets.core.wide import wide
from jaxnets.models.layers import Conv, check_layers

# Added under a square root to keep its gradient finite at 0; negligible elsewhere.
LEAST = 1e-12


class CapsNet(nn.Module):
    """A convolution, a convolution to primary capsules, and one capsule per class from routing by agreement."""

    width: int = 256
    """Channels of the first convolution."""
    window: int = 9
    """Kernel size of both convolutions, which have no padding; the second has stride 2."""
    maps: int = 32
    """Primary capsules at each position of the second convolution."""
    below: int = 8
    """Numbers in a primary capsule."""
    above: int = 16
    """Numbers in a class capsule."""
    rounds: int = 3
    """Iterations of routing by agreement."""
    outputs: int | None = None
    """Class capsules; None: the number of classes in the data."""

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
        init = nn.initializers.normal(0.05)
        maps = self.param("transformations", init, (x.shape[1], self.outputs or 1, D, self.above))
        return length(route(jnp.einsum("bnd,ncde->bnce", x, maps.astype(x.dtype)), self.rounds))

    def convolution(self, features: int, stride: int, name: str) -> nn.Conv:
        """A convolution without padding."""
        return Conv(
            features, (self.window, self.window), strides=stride, padding="VALID",
            name=name,
        )  # fmt: skip


def route(votes: Array, rounds: int) -> Array:
    """Routing by agreement: class capsules `[B, C, E]` from the prediction vectors `[B, N, C, E]` of the primary capsules.

    The coupling coefficients of a primary capsule are a softmax over classes, uniform at first. Each round increases those
    whose prediction agrees with the class capsule. Gradients flow through all rounds.
    """
    B, N, C, _ = votes.shape
    dtype, votes = votes.dtype, wide(votes)  # half precision is too coarse for the agreements
    logits = jnp.zeros((B, N, C), votes.dtype)
    above = squash(jnp.einsum("bnc,bnce->bce", nn.softmax(logits, axis=-1), votes))
    for _ in range(rounds - 1):
        logits = logits + jnp.einsum("bnce,bce->bnc", votes, above)
        above = squash(jnp.einsum("bnc,bnce->bce", nn.softmax(logits, axis=-1), votes))
    return above.astype(dtype)


def squash(x: Array) -> Array:
    """Scale vectors to the length `|x|^2 / (1 + |x|^2)`, which is below 1; directions are unchanged."""
    exact = wide(x)
    square = jnp.square(exact).sum(axis=-1, keepdims=True)
    return (exact * jnp.sqrt(square + LEAST) / (1 + square)).astype(x.dtype)


def length(x: Array) -> Array:
    """The length of each vector, `[..., E]` to `[...]`; its gradient at 0 is 0."""
    return jnp.sqrt(jnp.square(wide(x)).sum(axis=-1) + LEAST).astype(x.dtype)
