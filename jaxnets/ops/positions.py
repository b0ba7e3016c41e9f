"""Position encodings: sinusoidal, rotary (RoPE) and ALiBi."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.wide import wide


def sinusoids(positions: Array, width: int, *, base: float = 10_000.0) -> Array:
    """`[..., width]` float32: sines, then cosines, of positions `[...]` at geometrically spaced wavelengths (Vaswani et al.
    2017)."""
    angles = _angles(positions, _frequencies(2 * ((width + 1) // 2), base))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[..., :width]


def rotate(
    x: Array,
    positions: Array,
    *,
    base: float = 10_000.0,
    pairs: str | Literal["halves", "neighbours"] = "halves",
    scaling: tuple[float, float, float, float] | None = None,
) -> Array:
    """Rotary positions (Su et al. 2021): rotate pairs of numbers by angles proportional to the position.

    Args:
        x: `[B, T, H, K]`, K even.
        positions: `[T]`, or `[B, T]` if they differ between rows.
        base: longest wavelength, in units of 2 pi positions.
        pairs: which numbers are rotated together: the two halves of K, or neighbours.
        scaling: Llama 3.1's RoPE scaling of long wavelengths; see `stretched`.

    Returns:
        Shape and dtype of `x`; computed in float32.
    """
    frequencies = stretched(_frequencies(x.shape[-1], base), scaling)
    angles = _angles(jnp.atleast_2d(positions), frequencies)
    cos, sin = (f(angles)[:, :, None, :] for f in (jnp.cos, jnp.sin))
    exact = wide(x)
    if pairs == "halves":
        a, b = jnp.split(exact, 2, axis=-1)
        rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    else:
        a, b = exact[..., 0::2], exact[..., 1::2]
        rotated = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)
    return rotated.astype(x.dtype)


def stretched(frequencies: Array, scaling: tuple[float, float, float, float] | None) -> Array:
    """Rotary frequencies for longer contexts than in pretraining (Llama 3.1, Grattafiori et al. 2024).

    Args:
        frequencies: radians per position.
        scaling: (factor, low, high, length). Frequencies with fewer than `low` periods in the original context `length` are
            divided by `factor`, those with more than `high` periods are unchanged, and those between are interpolated.
    """
    if scaling is None:
        return frequencies
    factor, low, high, length = scaling
    periods = length * frequencies / (2 * math.pi)
    kept = jnp.clip((periods - low) / (high - low), 0.0, 1.0)
    return frequencies * (kept + (1 - kept) / factor)


def alibi_slopes(heads: int) -> Array:
    """`[H]` float32: slope of each head's penalty on distance (ALiBi, Press et al. 2022, for any number of heads)."""
    nearest = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / nearest) for i in range(nearest)]
    slopes += [2 ** (-4 * (2 * i + 1) / nearest) for i in range(heads - nearest)]
    return jnp.asarray(slopes, jnp.float32)


def _angles(positions: Array, frequencies: Array) -> Array:
    """`[..., F]` radians of positions `[...]`."""
    return positions[..., None].astype(jnp.float32) * frequencies.reshape(*(1,) * positions.ndim, -1)


def _frequencies(width: int, base: float) -> Array:
    return base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)


def places_after(ends: Array) -> Array:
    """Positions `[B, T]` int32 that start at 0 after each end: of tokens in their documents, where `ends` `[B, T]` is 1 at the
    last token of a document and 0 elsewhere."""
    places = jnp.broadcast_to(jnp.arange(ends.shape[1], dtype=jnp.int32)[None], ends.shape)
    begins = jnp.pad(ends[:, :-1], ((0, 0), (1, 0)))
    return places - jax.lax.cummax(places * begins, axis=1)
