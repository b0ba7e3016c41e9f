"""Variants of dropout. Each keeps the mean of its inputs, so evaluation needs no change.

Shapes: `B` batch, `C` features.
"""

import math
import zlib
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

DropoutKind = Literal["units", "channels", "alpha", "gyro"]
"""What dropout layers drop:

- units: single numbers (Srivastava et al. 2014).
- channels: a feature at all positions of an example (Tompson et al. 2015), in images and sequences; elsewhere as units.
- alpha: units, set to the lower limit of SELU and corrected by an affine map, so that mean 0 and variance 1 stay
  (Klambauer et al. 2017); for networks with `selu`.
- gyro: units, by one of 256 masks that are drawn before the training; each step uses 16 of them, each for a part of the batch
  (Lee et al. 2022, "Gyro dropout").
"""

# The lower limit of SELU: -lambda * alpha.
SELU_LIMIT = -1.7580993408473766
# Masks of gyro dropout: how many there are, and how many a step uses (the defaults of the paper).
MASKS, MASKS_A_STEP = 256, 16


def channels(key: Array, x: Array, rate: float) -> Array:
    """`[B, ..., C]` with whole features of an example set to 0, the others divided by `1 - rate`."""
    shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1]) if x.ndim > 2 else x.shape
    return jnp.where(jax.random.bernoulli(key, 1 - rate, shape), x / (1 - rate), 0)


def alpha(key: Array, x: Array, rate: float) -> Array:
    """`a (x or SELU's limit) + b`, with a and b such that inputs of mean 0 and variance 1 have outputs of the same."""
    keep = 1 - rate
    a = 1 / math.sqrt(keep + SELU_LIMIT**2 * keep * rate)
    kept = jax.random.bernoulli(key, keep, x.shape)
    return a * jnp.where(kept, x, jnp.asarray(SELU_LIMIT, x.dtype)) - a * rate * SELU_LIMIT


def gyro(key: Array, x: Array, rate: float, path: str) -> Array:
    """`[B, ...]` dropped by few masks. The masks of a layer follow from its path; the step's key chooses among them."""
    first = jax.random.fold_in(jax.random.key(0), zlib.crc32(path.encode()))
    chosen = jax.random.choice(key, MASKS, (min(MASKS_A_STEP, x.shape[0]),), replace=False)
    drawn = jax.vmap(lambda number: jax.random.bernoulli(jax.random.fold_in(first, number), 1 - rate, x.shape[1:]))
    parts = jnp.arange(x.shape[0]) * len(chosen) // x.shape[0]
    return jnp.where(drawn(chosen)[parts], x / (1 - rate), 0)


def connections(key: Array, kernel: Array, rate: float) -> Array:
    """A kernel with single weights set to 0, the others divided by `1 - rate` (DropConnect, Wan et al. 2013).

    One mask serves the whole batch; the paper draws one for each example.
    """
    return jnp.where(jax.random.bernoulli(key, 1 - rate, kernel.shape), kernel / (1 - rate), 0)
