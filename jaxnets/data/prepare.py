"""How raw inputs become what a model sees: half on the host, where numbers have 64 bits, half on the device."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.scaling import blocks, centred, mean_and_deviation


def fits_float32(dtype: np.dtype) -> bool:
    """Whether float32 holds every number of a format, so that the device can scale it: 8 and 16 bits, and booleans."""
    return dtype.itemsize <= 2


@dataclasses.dataclass(frozen=True)
class Standardize:
    """`(inputs - mean) / std` over the last dim, to float32.

    Numbers of 32 bits and more are scaled on the host, in float64, before they are narrowed; those of fewer bits, images
    above all, travel to the device as they are and are scaled there.
    """

    mean: tuple[float, ...] = (0.0,)
    """Subtracted; one number, or one for each channel or feature."""
    std: tuple[float, ...] = (1.0,)
    """Divides; one number, or one for each channel or feature."""

    def __call__(self, inputs: Any) -> Any:
        """Raw inputs to float32, same shape: the whole way for numpy arrays; for arrays on a device (or traced), in
        float32."""
        if isinstance(inputs, np.ndarray):
            return np.asarray(self.on_device(jnp.asarray(self.on_host(inputs))))
        return self._scaled(inputs)

    def on_host(self, raw: np.ndarray) -> np.ndarray:
        """What is sent to the device: scaled float32, or the raw numbers where they have 16 bits at most."""
        if fits_float32(raw.dtype):
            return raw
        made = np.empty(raw.shape, np.float32)
        start = 0
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes an infinity, which is looked for
            for block in blocks(raw):
                made[start : start + len(block)] = centred(block, np.array(self.mean)) / np.array(self.std)
                start += len(block)
        return made

    def on_device(self, sent: Array) -> Array:
        """What `on_host` gave, as the model sees it."""
        return sent if sent.dtype == jnp.float32 else self._scaled(sent)

    def _scaled(self, inputs: Array) -> Array:
        shape = (1,) * (inputs.ndim - 1) + (-1,)
        mean, std = (jnp.asarray(v, jnp.float32).reshape(shape) for v in (self.mean, self.std))
        return (inputs.astype(jnp.float32) - mean) / std

    def undo(self, prepared: np.ndarray) -> np.ndarray:
        """The inputs that would be prepared so, float64, same shape."""
        return np.asarray(prepared, np.float64) * np.array(self.std) + np.array(self.mean)


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """Tokens stay what they are, in the one integer format that models take."""

    def __call__(self, inputs: Any) -> Any:
        """Integers of any size to int32, same shape."""
        return inputs.astype(jnp.int32)

    def on_host(self, raw: np.ndarray) -> np.ndarray:
        """What is sent to the device: the tokens, in 32 bits at most."""
        return raw if raw.dtype.itemsize <= 4 else raw.astype(np.int32)

    def on_device(self, sent: Array) -> Array:
        """What `on_host` gave, as the model sees it."""
        return sent.astype(jnp.int32)


def fit_standardize(inputs: np.ndarray) -> Standardize:
    """Mean and standard deviation of each channel (images) or feature; a constant one is only centred.

    Args:
        inputs: `[N, ..., features]` real numbers.

    Raises:
        DataError: numbers so large that their mean or deviation is beyond float64.
    """
    mean, std = mean_and_deviation(inputs)
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise DataError(f"inputs up to {np.abs(inputs).max():g} are too large to standardise; rescale them first")
    return Standardize(tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist()))
