"""The gradient noise scale: the batch beyond which more examples in a step save few steps (McCandlish et al. 2018).

The gradient of a batch is the true gradient `G` plus noise with covariance `Sigma / B`. The simple noise scale
`tr(Sigma) / |G|^2` (arXiv:1812.06162, eq. 2.9) is the batch in which noise and signal are equal. Batches far below it waste
steps, and ones far above it waste examples. It grows while a network trains.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import UsageError


def squared_norms(parts: Any) -> Array:
    """Of the gradients of a batch's parts, a tree of `[n, ...]`: the mean of their squared norms, and that of their mean.

    float32 `[2]`. The parts have the same number of examples.
    """

    def of(leaf: Array) -> Array:
        leaf = leaf.astype(jnp.float32).reshape(leaf.shape[0], -1)
        return jnp.stack([jnp.square(leaf).sum(axis=1).mean(), jnp.square(leaf.mean(axis=0)).sum()])

    return jnp.stack([of(leaf) for leaf in jax.tree.leaves(parts)]).sum(axis=0)


@dataclasses.dataclass(frozen=True)
class NoiseScale:
    """An estimate from several steps."""

    signal: float
    """`|G|^2`, unbiased; it may be negative if the noise is larger than the gradient."""
    noise: float
    """`tr(Sigma)`, the variance of one example's gradient, summed over all parameters; unbiased."""
    error: float
    """Standard error of `batch`, by leaving out each step in turn (the jackknife); NaN for one step."""

    @property
    def batch(self) -> float | None:
        """The noise scale in examples; None if the gradient is too small compared with the noise: use more or larger
        batches."""
        return self.noise / self.signal if self.signal > 0 else None


def noise_scale(norms: Any, *, part: int, whole: int) -> NoiseScale:
    """The noise scale by two batch sizes within each step (appendix A.1 of the paper).

    The estimates of signal and noise are unbiased for each step; they are averaged over the steps before they are divided.

    Args:
        norms: `[steps, 2]`, for each step what `squared_norms` gives.
        part: examples in a part.
        whole: examples in the batch.
    """
    norms = np.asarray(norms, np.float64).reshape(-1, 2)
    if not 0 < part < whole:
        raise UsageError(f"the noise scale compares parts of a batch with the whole; got {part} and {whole} examples")
    if not len(norms):
        raise UsageError("the noise scale is an average over steps, and there is none")
    small, large = norms[:, 0], norms[:, 1]
    signal = (whole * large - part * small) / (whole - part)
    noise = (small - large) / (1 / part - 1 / whole)
    error = float("nan")
    if len(norms) > 1:
        count = len(norms)
        left = (noise.sum() - noise) / (signal.sum() - signal)
        error = float(np.sqrt((count - 1) / count * np.square(left - left.mean()).sum()))
    return NoiseScale(float(signal.mean()), float(noise.mean()), error)
