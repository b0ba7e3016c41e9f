"""Images with growing corruption, and the score of a network on them (Hendrycks and Dietterich 2019, "ImageNet-C").

Shapes: images `[N, H, W, C]`, float with pixels in [0, 1].
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.data.augment.colour import clipped, contrast
from jaxnets.data.augment.geometry import inside_box

Corruption = Literal["noise", "blur", "brightness", "contrast", "occlusion"]
# Strengths of the severities 1 to 5, for small images; `corrupted` says in which unit.
STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "noise": (0.05, 0.1, 0.2, 0.3, 0.5),
    "blur": (0.5, 0.75, 1.0, 1.5, 2.0),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.25, 0.4, 0.55, 0.7, 0.85),
    "occlusion": (0.02, 0.05, 0.1, 0.2, 0.35),
}


def corrupted(images: Any, kind: Corruption, strength: float, *, seed: int = 0) -> Array:
    """The images under one corruption, cut to [0, 1]. A strength of 0 changes nothing.

    Args:
        images: `[N, H, W, C]`, float in [0, 1].
        kind: noise: normal, `strength` its standard deviation. blur: by a normal kernel with this standard deviation in
            pixels; edges are repeated. brightness: this much is added. contrast: this share of it is taken away (1 leaves the
            mean luma). occlusion: a grey square with this share of the area, at a random place of each image.
        strength: 0 or more; of contrast and occlusion at most 1.
        seed: of noise and places.
    """
    images = _checked(images)
    if kind not in STRENGTHS:
        raise UsageError(f"kind is one of {', '.join(get_args(Corruption))}; got {kind!r}")
    most = 1.0 if kind in ("contrast", "occlusion") else np.inf
    if not 0 <= strength <= most:
        raise UsageError(f"strength of {kind} is in [0, {most:g}], got {strength}")
    if kind == "blur":
        return _blurred(images, *(_smoothing(size, strength) for size in images.shape[1:3]))
    return CHANGES[kind](images, jnp.asarray(strength, images.dtype), jax.random.key(seed))


@jax.jit
def _noisy(images: Array, strength: Array, key: Array) -> Array:
    return clipped(images + strength * jax.random.normal(key, images.shape, images.dtype))


@jax.jit
def _brighter(images: Array, strength: Array, _: Array) -> Array:
    return clipped(images + strength)


@jax.jit
def _flatter(images: Array, strength: Array, _: Array) -> Array:
    return jax.vmap(lambda image: contrast(image, 1 - strength))(images)


@jax.jit
def _occluded(images: Array, strength: Array, key: Array) -> Array:
    _, H, W, _ = images.shape
    height, width = (jnp.round(size * jnp.sqrt(strength)).astype(jnp.int32) for size in (H, W))

    def one(image: Array, key: Array) -> Array:
        down, across = jax.random.split(key)
        top = jax.random.randint(down, (), 0, H - height + 1)
        left = jax.random.randint(across, (), 0, W - width + 1)
        return jnp.where(inside_box(image.shape, top, left, height, width), jnp.asarray(0.5, image.dtype), image)

    return jax.vmap(one)(images, jax.random.split(key, len(images)))


@jax.jit
def _blurred(images: Array, rows: Array, columns: Array) -> Array:
    return clipped(jnp.einsum("ij,njkc,lk->nilc", rows, images, columns))


def _smoothing(size: int, deviation: float) -> Array:
    """The matrix `[size, size]` that smooths a row of pixels by a normal kernel, cut at three deviations."""
    matrix = np.zeros((size, size), np.float32)
    reach = int(np.ceil(3 * deviation))
    taps = np.exp(-np.square(np.arange(-reach, reach + 1) / max(deviation, 1e-6)) / 2)
    for place in range(size):
        np.add.at(matrix[place], np.clip(np.arange(place - reach, place + reach + 1), 0, size - 1), taps / taps.sum())
    return jnp.asarray(matrix)


# The function of each corruption but blur: images, strength, key.
CHANGES: Mapping[str, Callable[[Array, Array, Array], Array]] = {
    "noise": _noisy,
    "brightness": _brighter,
    "contrast": _flatter,
    "occlusion": _occluded,
}


def corruption_curve(
    score: Callable[[np.ndarray], float],
    images: Any,
    *,
    kinds: Sequence[Corruption] = get_args(Corruption),
    strengths: Mapping[str, Sequence[float]] = STRENGTHS,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The score on images of growing corruption: for each kind `[1 + strengths]`, the first for the original images.

    Args:
        score: images `[N, H, W, C]` in [0, 1] to a number, such as the accuracy of a run:
            `lambda images: (run.predict(images) == labels).mean()`.
        images: float in [0, 1].
        kinds: which corruptions.
        strengths: of each kind; by default five, the severities of `STRENGTHS`.
        seed: of noise and places.
    """
    clean = float(score(np.asarray(_checked(images))))
    return {
        kind: np.asarray(
            [clean, *(float(score(np.asarray(corrupted(images, kind, one, seed=seed)))) for one in strengths[kind])]
        )
        for kind in kinds
    }


def _checked(images: Any) -> Array:
    found = jnp.asarray(images)
    if found.ndim != 4 or not jnp.issubdtype(found.dtype, jnp.floating):
        raise UsageError(
            f"images are [N, H, W, C] of real numbers in [0, 1], got {found.shape} {found.dtype}; divide bytes by 255"
        )
    low, high = float(found.min()), float(found.max())
    if low < -1e-6 or high > 1 + 1e-6:
        raise UsageError(f"pixels are in [0, 1], and these are from {low:.4g} to {high:.4g}; scale them first")
    return clipped(found)
