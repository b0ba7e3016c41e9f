"""Images made worse step by step, and how a network does on them (Hendrycks and Dietterich 2019, "ImageNet-C").

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
    key = jax.random.key(seed)
    if kind == "noise":
        return clipped(images + strength * jax.random.normal(key, images.shape, images.dtype))
    if kind == "blur":
        return clipped(_blurred(images, strength))
    if kind == "brightness":
        return clipped(images + strength)
    if kind == "contrast":
        return jax.vmap(lambda image: contrast(image, 1 - strength))(images)
    return jax.vmap(lambda image, key: _occluded(image, strength, key))(images, jax.random.split(key, len(images)))


def corruption_curve(
    score: Callable[[np.ndarray], float],
    images: Any,
    *,
    kinds: Sequence[Corruption] = get_args(Corruption),
    strengths: Mapping[str, Sequence[float]] = STRENGTHS,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The score on images of growing corruption: for each kind `[1 + strengths]`, the first for the images as they are.

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


def _blurred(images: Array, deviation: float) -> Array:
    if deviation == 0:
        return images
    reach = max(1, int(np.ceil(3 * deviation)))
    taps = np.exp(-np.square(np.arange(-reach, reach + 1) / deviation) / 2)
    taps /= taps.sum()
    for axis in (1, 2):
        pads = [(reach, reach) if number == axis else (0, 0) for number in range(4)]
        wide, count = jnp.pad(images, pads, mode="edge"), images.shape[axis]
        images = sum(
            (
                float(tap) * jax.lax.slice_in_dim(wide, start, start + count, axis=axis)
                for start, tap in enumerate(taps)
            ),
            jnp.zeros_like(images),
        )
    return images


def _occluded(image: Array, share: float, key: Array) -> Array:
    H, W, _ = image.shape
    height, width = round(H * share**0.5), round(W * share**0.5)
    down, across = jax.random.split(key)
    top, left = jax.random.randint(down, (), 0, H - height + 1), jax.random.randint(across, (), 0, W - width + 1)
    box = inside_box(image.shape, top, left, jnp.asarray(height), jnp.asarray(width))
    return jnp.where(box, jnp.asarray(0.5, image.dtype), image)
