"""Changes of an image's colours, as pure functions. An image is `[H, W, C]` float32 with pixels in [0, 1].

One channel is grey, three are RGB. The operations are those of PIL and torchvision, without their rounding to 8 bits; those
that are defined by 8-bit values (`posterize`, `equalize`) round to the nearest of them first.
"""

import jax.numpy as jnp
from jax import Array


def clipped(image: Array) -> Array:
    """Pixels in [0, 1]."""
    return jnp.clip(image, 0.0, 1.0)


def blend(first: Array, second: Array, factor: Array | float) -> Array:
    """`(1 - factor) * first + factor * second`, clipped; a factor above 1 goes beyond `second`."""
    return clipped(first + factor * (second - first))


def grey(image: Array) -> Array:
    """The luma of ITU-R 601, in every channel; images with another number of channels than 3 are averaged."""
    if image.shape[-1] != 3:
        return jnp.broadcast_to(image.mean(axis=-1, keepdims=True), image.shape)
    luma = image @ jnp.array([0.299, 0.587, 0.114])
    return jnp.broadcast_to(luma[..., None], image.shape)


def brightness(image: Array, factor: Array | float) -> Array:
    """0 is black, 1 changes nothing."""
    return clipped(image * factor)


def contrast(image: Array, factor: Array | float) -> Array:
    """0 is the mean luma of the image everywhere, 1 changes nothing."""
    return blend(jnp.broadcast_to(grey(image).mean(), image.shape), image, factor)


def saturation(image: Array, factor: Array | float) -> Array:
    """0 is grey, 1 changes nothing."""
    return blend(grey(image), image, factor)


def sharpness(image: Array, factor: Array | float) -> Array:
    """0 is smoothed by PIL's 3 x 3 kernel (5 in the middle, 1 around, over 13), 1 changes nothing; the rim is kept."""
    H, W, _ = image.shape
    if H < 3 or W < 3:
        return image
    parts = [image[i : H - 2 + i, j : W - 2 + j] for i in range(3) for j in range(3)]
    smooth = (sum(parts[1:], parts[0]) + 4 * image[1:-1, 1:-1]) / 13
    return blend(image.at[1:-1, 1:-1].set(smooth), image, factor)


def hue(image: Array, turn: Array | float) -> Array:
    """The hue turned by a share of the circle, in [-.5, .5]; saturation and value stay. Images that are not RGB stay."""
    if image.shape[-1] != 3:
        return image
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    high, low = image.max(axis=-1), image.min(axis=-1)
    spread = high - low
    safe = jnp.where(spread > 0, spread, 1.0)
    sixth = jnp.where(
        high == red,
        (green - blue) / safe,
        jnp.where(high == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    place = jnp.mod(jnp.where(spread > 0, sixth, 0.0) / 6.0 + turn, 1.0) * 6.0
    # Each channel falls from the value to value - spread and rises again, a third of the circle apart.
    shares = [jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0) for k in (jnp.mod(place + n, 6.0) for n in (5.0, 3.0, 1.0))]
    return jnp.stack([high - spread * share for share in shares], axis=-1)


def invert(image: Array) -> Array:
    """The negative."""
    return 1.0 - image


def solarize(image: Array, threshold: Array | float) -> Array:
    """Pixels from the threshold (in [0, 1]) on are inverted."""
    return jnp.where(image < threshold, image, invert(image))


def posterize(image: Array, bits: Array | int) -> Array:
    """The `bits` highest bits of 8 are kept."""
    dropped = 8 - jnp.asarray(bits, jnp.int32)
    return (as_bytes(image).astype(jnp.int32) >> dropped << dropped).astype(jnp.float32) / 255.0


def autocontrast(image: Array) -> Array:
    """Each channel stretched so that its darkest pixel is 0 and its brightest 1; a channel of one value stays."""
    low, high = image.min(axis=(0, 1), keepdims=True), image.max(axis=(0, 1), keepdims=True)
    return jnp.where(high > low, (image - low) / jnp.where(high > low, high - low, 1.0), image)


def equalize(image: Array) -> Array:
    """Each channel's histogram of 8-bit values made even, by PIL's table."""
    H, W, C = image.shape
    values = as_bytes(image).astype(jnp.int32)
    # One histogram of all channels, one after the other.
    places = values + 256 * jnp.arange(C)[None, None, :]
    counts = jnp.zeros(256 * C, jnp.int32).at[places.reshape(-1)].add(1).reshape(C, 256)
    last = 255 - jnp.argmax(counts[:, ::-1] > 0, axis=1)
    step = (H * W - jnp.take_along_axis(counts, last[:, None], axis=1)) // 255
    before = jnp.cumsum(counts, axis=1) - counts
    table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255)
    table = jnp.where(step > 0, table, jnp.arange(256)[None, :])
    return table.reshape(-1)[places].astype(jnp.float32) / 255.0


def as_bytes(image: Array) -> Array:
    """The nearest 8-bit values, as float32 in [0, 255]."""
    return jnp.floor(clipped(image) * 255.0 + 0.5)
