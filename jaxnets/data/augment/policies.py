"""Policies that draw operations and their strengths for each image: TrivialAugment, RandAugment, AugMix.

An image is `[H, W, C]` float32 with pixels in [0, 1]; what comes in from outside is black. A drawn operation is selected among
the results of all, since the images of a batch draw different ones; the five geometric operations are one `affine`.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.data.augment import colour
from jaxnets.data.augment.geometry import affine, rotation

Policy = Literal["none", "trivial", "randaugment", "augmix"]
# Those with a matrix come first, in the order of `_matrices`.
GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
COLOUR = (
    "identity",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
OPERATIONS = (*GEOMETRIC, *COLOUR)
# AugMix leaves out what its test corruptions do (Hendrycks et al. 2020, section 3).
AUGMIX = (*GEOMETRIC, "posterize", "solarize", "autocontrast", "equalize")
# A share of the strongest change at which RandAugment's and AugMix's magnitudes are 1: levels run from 0 to these.
RANDAUGMENT_LEVELS, AUGMIX_LEVELS = 30, 10


def perform(image: Array, which: Array | int, strength: Array) -> Array:
    """Operation number `which` of `OPERATIONS` on an image.

    `strength` `[len(OPERATIONS)]` holds one number for each operation: shears as a share, translations in pixels, rotation in
    degrees, factors of brightness, saturation, contrast and sharpness, bits, a threshold; the others ignore theirs.
    """
    count = len(GEOMETRIC)
    number = jnp.asarray(which)
    matrices = jnp.concatenate([_matrices(image.shape, strength), _identity()[None]])
    moved = affine(image, matrices[jnp.minimum(number, count)])
    branches: tuple[Callable[[Array], Array], ...] = (
        lambda x: x,
        lambda x: colour.brightness(x, strength[count + 1]),
        lambda x: colour.saturation(x, strength[count + 2]),
        lambda x: colour.contrast(x, strength[count + 3]),
        lambda x: colour.sharpness(x, strength[count + 4]),
        lambda x: colour.posterize(x, strength[count + 5]),
        lambda x: colour.solarize(x, strength[count + 6]),
        colour.autocontrast,
        colour.equalize,
    )
    return jax.lax.switch(jnp.maximum(number - count, 0), branches, moved)


def _identity() -> Array:
    return jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def _matrices(shape: tuple[int, ...], strength: Array) -> Array:
    """The matrices `[5, 2, 3]` of the geometric operations; shears keep the upper left corner."""
    places = ((0, 1), (1, 0), (0, 2), (1, 2))
    simple = [_identity().at[place].set(strength[i]) for i, place in enumerate(places)]
    return jnp.stack([*simple, rotation(strength[4], shape[0], shape[1])])


def wide(level: Array, sign: Array) -> Array:
    """The strengths of TrivialAugment's wide space at a level in [0, 1]; `sign` is 1 or -1."""
    factor = 1.0 + sign * 0.99 * level
    bits = 8.0 - jnp.round(6.0 * level)
    signed = [sign * most * level for most in (0.99, 0.99, 32.0, 32.0, 135.0)]
    return _strengths(signed, factor, bits, level)


def randaugment_strengths(level: Array, sign: Array, shape: tuple[int, ...]) -> Array:
    """The strengths of RandAugment's space at a level in [0, 1]: translations up to 150 of 331 pixels, 30 degrees."""
    moves = [size * 150.0 / 331.0 for size in (shape[1], shape[0])]
    signed = [sign * most * level for most in (0.3, 0.3, *moves, 30.0)]
    return _strengths(signed, 1.0 + sign * 0.9 * level, 8.0 - jnp.round(4.0 * level), level)


def augmix_strengths(level: Array, sign: Array, shape: tuple[int, ...]) -> Array:
    """The strengths of AugMix's space at a level in [0, 1]: translations up to a third of the image, 30 degrees."""
    signed = [sign * most * level for most in (0.3, 0.3, shape[1] / 3.0, shape[0] / 3.0, 30.0)]
    return _strengths(signed, jnp.ones(()), 4.0 - jnp.floor(4.0 * level), level)


def _strengths(geometric: list[Array], factor: Array, bits: Array, level: Array) -> Array:
    none = jnp.zeros(())
    # The threshold of solarize lies above white at level 0, so that white stays.
    threshold = jnp.where(level > 0, 1.0 - level, 2.0)
    return jnp.stack([*geometric, none, factor, factor, factor, factor, bits, threshold, none, none])


def _sign(key: Array) -> Array:
    return jnp.where(jax.random.bernoulli(key), 1.0, -1.0)


def trivial(image: Array, key: Array) -> Array:
    """TrivialAugment (Müller and Hutter 2021, the wide space): one operation, its strength uniform over 31 levels."""
    which, level, sign = jax.random.split(key, 3)
    strength = wide(jax.random.randint(level, (), 0, 31) / 30.0, _sign(sign))
    return perform(image, jax.random.randint(which, (), 0, len(OPERATIONS)), strength)


def randaugment(image: Array, key: Array, operations: int, magnitude: float) -> Array:
    """RandAugment (Cubuk et al. 2020): `operations` drawn operations in turn, each at `magnitude` of 30."""
    level = jnp.asarray(magnitude / RANDAUGMENT_LEVELS)

    def one(image: Array, key: Array) -> tuple[Array, None]:
        which, sign = jax.random.split(key)
        strength = randaugment_strengths(level, _sign(sign), image.shape)
        return perform(image, jax.random.randint(which, (), 0, len(OPERATIONS)), strength), None

    return jax.lax.scan(one, image, jax.random.split(key, operations))[0]


def augmix(image: Array, key: Array, severity: float, width: int = 3, deepest: int = 3) -> Array:
    """AugMix (Hendrycks et al. 2020, algorithm 1), without its consistency loss.

    The image is mixed with `width` chains of one to `deepest` drawn operations: `(1 - m) image + m sum(w chain)` with
    `w ~ Dirichlet(1, ..., 1)` and `m ~ Beta(1, 1)`. Levels are uniform in [.1, `severity`] of 10.
    """
    chains_key, weights_key, share_key = jax.random.split(key, 3)
    known = jnp.array([OPERATIONS.index(name) for name in AUGMIX])

    def step(carry: tuple[Array, Array], drawn: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        (image, depth), (key, place) = carry, drawn
        which, level, sign = jax.random.split(key, 3)
        share = jax.random.uniform(level, minval=0.1, maxval=severity) / AUGMIX_LEVELS
        changed = perform(
            image,
            known[jax.random.randint(which, (), 0, len(AUGMIX))],
            augmix_strengths(share, _sign(sign), image.shape),
        )
        return (jnp.where(place < depth, changed, image), depth), None

    def chain(key: Array) -> Array:
        depth_key, key = jax.random.split(key)
        depth = jax.random.randint(depth_key, (), 1, deepest + 1)
        drawn = (jax.random.split(key, deepest), jnp.arange(deepest))
        return jax.lax.scan(step, (image, depth), drawn)[0][0]

    chains = jax.vmap(chain)(jax.random.split(chains_key, width))
    weights = jax.random.dirichlet(weights_key, jnp.ones(width))
    share = jax.random.uniform(share_key)  # Beta(1, 1)
    return (1.0 - share) * image + share * jnp.tensordot(weights, chains, axes=1)
