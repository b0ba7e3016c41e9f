"""Images as grids of patches, and back: square patches of pixels become channels of one position."""

from jax import Array


def to_patches(x: Array, side: int) -> Array:
    """Patches of `side` by `side` pixels as positions: `[..., H, W, C]` to `[..., H / side, W / side, side^2 C]`.

    New channels are ordered by row, column, channel. `side` divides `H` and `W`.
    """
    *before, H, W, C = x.shape
    x = x.reshape(*before, H // side, side, W // side, side, C).swapaxes(-4, -3)
    return x.reshape(*before, H // side, W // side, side * side * C)


def from_patches(x: Array, side: int) -> Array:
    """The inverse of `to_patches`."""
    *before, H, W, channels = x.shape
    C = channels // side**2
    return x.reshape(*before, H, W, side, side, C).swapaxes(-4, -3).reshape(*before, H * side, W * side, C)
