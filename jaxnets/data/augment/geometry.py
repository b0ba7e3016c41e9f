"""Changes of an image's geometry, as pure functions. Shapes: an image is `[H, W, C]`, float32 of any range.

Coordinates are those of PIL: `x` runs to the right and `y` down, and the centre of the first pixel is (.5, .5).
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

Padding = Literal["zero", "reflect", "edge"]
# What `jnp.pad` calls them.
PAD_MODES: dict[str, Literal["constant", "reflect", "edge"]] = {
    "zero": "constant",
    "reflect": "reflect",
    "edge": "edge",
}


def shift(image: Array, row: Array, column: Array, most: int, padding: Padding = "zero") -> Array:
    """The crop of the image's size whose corner is at (`row`, `column`) of the image padded by `most` pixels on each side."""
    padded = jnp.pad(image, ((most, most), (most, most), (0, 0)), mode=PAD_MODES[padding])
    return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


def affine(
    image: Array, matrix: Array, *, between: Literal["nearest", "linear"] = "nearest", padding: Padding = "zero"
) -> Array:
    """Output pixel (x, y) is the input at `matrix @ (x, y, 1)`; pixels from outside are 0, reflected or those of the edge.

    Args:
        image: `[H, W, C]`.
        matrix: `[2, 3]`, from output to input coordinates.
        between: the nearest pixel, or linear interpolation of four (those outside count as `padding` says).
        padding: what lies outside.
    """
    H, W, _ = image.shape
    y, x = jnp.meshgrid(jnp.arange(H) + 0.5, jnp.arange(W) + 0.5, indexing="ij")
    from_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    from_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    if between == "nearest":
        return _at(image, jnp.floor(from_y), jnp.floor(from_x), padding)
    from_x, from_y = from_x - 0.5, from_y - 0.5
    left, top = jnp.floor(from_x), jnp.floor(from_y)
    right_share, low_share = (from_x - left)[..., None], (from_y - top)[..., None]
    upper = _at(image, top, left, padding) * (1 - right_share) + _at(image, top, left + 1, padding) * right_share
    lower = (
        _at(image, top + 1, left, padding) * (1 - right_share) + _at(image, top + 1, left + 1, padding) * right_share
    )
    return upper * (1 - low_share) + lower * low_share


def _at(image: Array, rows: Array, columns: Array, padding: Padding) -> Array:
    """Pixels `[H, W, C]` at whole coordinates `[H, W]`, which may lie outside."""
    H, W, _ = image.shape
    inside = (rows >= 0) & (rows < H) & (columns >= 0) & (columns < W)
    if padding == "reflect":
        rows, columns = _reflected(rows, H), _reflected(columns, W)
    row, column = jnp.clip(rows, 0, H - 1).astype(jnp.int32), jnp.clip(columns, 0, W - 1).astype(jnp.int32)
    found = image[row, column]
    return jnp.where(inside[..., None], found, 0.0) if padding == "zero" else found


def _reflected(place: Array, size: int) -> Array:
    """A coordinate mirrored at the first and the last pixel, which are not repeated."""
    period = max(1, 2 * (size - 1))
    place = jnp.mod(place, period)
    return jnp.where(place > size - 1, period - place, place)


def rotation(degrees: Array, height: int, width: int) -> Array:
    """The matrix `[2, 3]` of `affine` that turns an image about its centre, counter-clockwise."""
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = width / 2, height / 2
    return jnp.stack([jnp.stack([cos, -sin, x - cos * x + sin * y]), jnp.stack([sin, cos, y - sin * x - cos * y])])


def resized_crop(image: Array, top: Array, left: Array, height: Array, width: Array) -> Array:
    """The part `[top, top + height) x [left, left + width)` at the size of the image, by linear interpolation.

    Where it shrinks, it is smoothed first (antialiasing). The corner and size may be real numbers.
    """
    H, W, C = image.shape
    scale = jnp.stack([H / height, W / width])
    move = -scale * jnp.stack([top, left])
    return jax.image.scale_and_translate(image, (H, W, C), (0, 1), scale, move, method="linear")


def crop_box(key: Array, shape: tuple[int, ...], least: float, ratio: float = 4 / 3) -> tuple[Array, ...]:
    """A random part of an image as top, left, height and width (float32), as for ImageNet (Szegedy et al. 2015).

    Its area is a uniform share in [`least`, 1], its width over its height is log-uniform in [1 / `ratio`, `ratio`]. Of ten
    draws the first that fits is taken; if none does, the whole image.
    """
    H, W = shape[:2]
    area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
    area = jax.random.uniform(area_key, (10,), minval=least, maxval=1.0) * H * W
    aspect = jnp.exp(jax.random.uniform(ratio_key, (10,), minval=-jnp.log(ratio), maxval=jnp.log(ratio)))
    heights, widths = jnp.round(jnp.sqrt(area / aspect)), jnp.round(jnp.sqrt(area * aspect))
    fits = (heights >= 1) & (heights <= H) & (widths >= 1) & (widths <= W)
    which = jnp.argmax(fits)
    height, width = jnp.where(fits.any(), heights[which], H), jnp.where(fits.any(), widths[which], W)
    top = jnp.floor(jax.random.uniform(top_key) * (H - height + 1))
    left = jnp.floor(jax.random.uniform(left_key) * (W - width + 1))
    return top, left, height, width


def erase_box(key: Array, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """The rectangle of random erasing (Zhong et al. 2020, algorithm 1) as top, left, height and width, int32.

    Its area is a uniform share in [.02, .4], its height over its width uniform in [.3, 1 / .3]. Of ten draws the first that
    fits is taken; if none does, height and width are 0.
    """
    H, W = shape[:2]
    area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
    area = jax.random.uniform(area_key, (10,), minval=0.02, maxval=0.4) * H * W
    aspect = jax.random.uniform(ratio_key, (10,), minval=0.3, maxval=1 / 0.3)
    heights = jnp.floor(jnp.sqrt(area * aspect)).astype(jnp.int32)
    widths = jnp.floor(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (heights < H) & (widths < W)
    which = jnp.argmax(fits)
    height, width = (jnp.where(fits.any(), sizes[which], 0) for sizes in (heights, widths))
    top = jax.random.randint(top_key, (), 0, H - height + 1)
    left = jax.random.randint(left_key, (), 0, W - width + 1)
    return top, left, height, width


def inside_box(shape: tuple[int, ...], top: Array, left: Array, height: Array, width: Array) -> Array:
    """Which pixels are in a rectangle, `[H, W, 1]` bool."""
    rows, columns = jnp.arange(shape[0])[:, None, None], jnp.arange(shape[1])[None, :, None]
    return (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)


def colout(image: Array, key: Array, share: float) -> Array:
    """ColOut (MosaicML's Composer): `int((1 - share) * H)` rows and as many columns kept, at random, in their order."""
    H, W, _ = image.shape
    row_key, column_key = jax.random.split(key)
    rows = jnp.sort(jax.random.permutation(row_key, H)[: max(1, int((1 - share) * H))])
    columns = jnp.sort(jax.random.permutation(column_key, W)[: max(1, int((1 - share) * W))])
    return image[rows][:, columns]
