"""A small U-Net conditioned on the time (Ronneberger et al. 2015; for diffusion as in Ho et al. 2020, appendix B).

Shapes: `B` batch, `H` height, `W` width, `C` channels, `E` numbers in the embedding of the time, `K` classes.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxnets.models.activations import Activation, activated
from jaxnets.models.layers import Conv, Dense, Remat, check_layers, rematerialised
from jaxnets.models.norms import GroupNorm
from jaxnets.ops.patches import from_patches, to_patches


class TimedBlock(nn.Module):
    """A residual block of two pre-norm convolutions; the time embedding shifts the channels between them."""

    width: int
    """Channels of the output."""
    groups: int
    """Groups of the normalisation."""
    activation: str = "silu"
    """The non-linearity."""

    @nn.compact
    def __call__(self, x: Array, time: Array) -> Array:
        """`[B, H, W, C]` and the time's embedding `[B, E]` to `[B, H, W, width]`."""
        h = GroupNorm(math.gcd(self.groups, x.shape[-1]), name="norm_0")(x)
        h = activated(self.activation, h, "slope_0")
        h = Conv(self.width, (3, 3), name="conv_0")(h)
        shift = Dense(self.width, name="time")(nn.silu(time))
        h = h + shift[:, None, None, :]
        h = GroupNorm(math.gcd(self.groups, self.width), name="norm_1")(h)
        h = activated(self.activation, h, "slope_1")
        # Zero initialisation, so that the branch of a new block adds nothing.
        h = Conv(
            self.width,
            (3, 3),
            kernel_init=nn.initializers.zeros,
            name="conv_1",
        )(h)
        if x.shape[-1] != self.width:
            x = Conv(self.width, (1, 1), name="shortcut")(x)
        return x + h


class UNet(nn.Module):
    """Strided convolutions down, nearest-neighbour upsampling, skip connections by concatenation."""

    features: tuple[int, ...] = (32, 64, 64)
    """Channels at each size; each size but the first is half the one before, rounding up."""
    blocks: int = 1
    """Blocks at each size, on the way down and on the way up."""
    groups: int = 8
    """Groups of each normalisation (fewer where they do not divide the channels)."""
    patch: int = 1
    """Side of the square patches whose pixels become channels of one position; the output is converted back. 2 takes a quarter
    of the work (Luhman and Luhman 2022, "Improving diffusion model efficiency through patching")."""

    activation: Activation = "silu"
    """The non-linearity inside blocks: see `Activation` in `activations.py`."""
    remat: Remat = "none"
    """Which results of a block the backward pass computes again, to save memory: see `Remat` in `layers.py`."""

    def __post_init__(self) -> None:
        check_layers(self, filled="features")
        for name in ("blocks", "groups", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"UNet.{name} is at least 1, got {getattr(self, name)}")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Array, time: Array | None = None, label: Array | None = None, *, train: bool = False
    ) -> Array:
        """`[B, H, W, C]`, times `[B]` in [0, 1] (None: 0) and one-hot labels `[B, K]` (zeros: no label) to `[B, H, W, C]`."""
        if x.ndim != 4:
            raise ValueError(f"UNet needs images [batch, height, width, channels], got {tuple(x.shape)}")
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(
                f"UNet.patch {self.patch} does not divide images of {x.shape[1]}x{x.shape[2]} pixels; pad them, or set "
                f"patch to 1"
            )
        time = jnp.zeros(x.shape[0], x.dtype) if time is None else time
        wide = 4 * self.features[0]
        emb = Dense(wide, name="time_0")(waves(time, self.features[0]).astype(x.dtype))
        emb = Dense(wide, name="time_1")(nn.silu(emb))
        if label is not None:
            emb = emb + Dense(wide, use_bias=False, name="label")(label.astype(x.dtype))
        x = to_patches(x, self.patch)
        h = Conv(self.features[0], (3, 3), name="stem")(x)
        block, skips = rematerialised(TimedBlock, self.remat), []
        for level, width in enumerate(self.features):
            if level:
                h = Conv(width, (3, 3), strides=(2, 2), name=f"shrink_{level}")(h)
            for index in range(self.blocks):
                h = block(width, self.groups, self.activation, name=f"down_{level}_{index}")(h, emb)
                skips.append(h)
        h = block(self.features[-1], self.groups, self.activation, name="middle")(h, emb)
        for level, width in reversed(list(enumerate(self.features))):
            for index in range(self.blocks):
                skip = skips.pop()
                # The way down rounds odd sizes up, so h may be one pixel too large here.
                h = jnp.concatenate([h[:, : skip.shape[1], : skip.shape[2]], skip], axis=-1)
                h = block(width, self.groups, self.activation, name=f"up_{level}_{index}")(h, emb)
            if level:
                h = h.repeat(2, axis=1).repeat(2, axis=2)
        h = GroupNorm(math.gcd(self.groups, h.shape[-1]), name="norm")(h)
        h = activated(self.activation, h, "slope")
        h = Conv(x.shape[-1], (3, 3), name="output")(h)
        return from_patches(h, self.patch)


def waves(time: Array, size: int) -> Array:
    """Sines and cosines of times `[B]` in [0, 1], at frequencies from 1 to 1,000 radians: `[B, size]` float32."""
    half = -(-size // 2)
    frequencies = jnp.exp(jnp.linspace(0.0, math.log(1000.0), half))
    angles = time.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[:, :size]
