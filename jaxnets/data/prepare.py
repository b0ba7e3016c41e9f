"""How raw inputs become model inputs: first on the host, where numbers have 64 bits, then on the device."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.scaling import blocks, centred, mean_and_deviation


def fits_float32(dtype: np.dtype) -> bool:
    """Whether float32 represents every value of a dtype exactly (booleans, 8 and 16 bits), so that the device can scale it."""
    return dtype.itemsize <= 2


@dataclasses.dataclass(frozen=True)
class Standardize:
    """`(inputs - mean) / std` over the last dim, to float32.

    Numbers with 32 or more bits are scaled on the host in float64 and then cast. Numbers with fewer bits, mostly images, are
    sent to the device as they are and scaled there.
    """

    mean: tuple[float, ...] = (0.0,)
    """Subtracted from the inputs; one number, or one for each channel or feature."""
    std: tuple[float, ...] = (1.0,)
    """Divisor of the inputs; one number, or one for each channel or feature."""

    def __call__(self, inputs: Any) -> Any:
        """Raw inputs to float32, same shape. NumPy arrays go through `on_host` and `on_device`; arrays on a device (or
        traced) are scaled in float32."""
        if isinstance(inputs, np.ndarray):
            return np.asarray(self.on_device(jnp.asarray(self.on_host(inputs))))
        return self._scaled(inputs)

    def on_host(self, raw: np.ndarray) -> np.ndarray:
        """The array that is sent to the device: scaled float32, or the raw numbers if they have at most 16 bits."""
        if fits_float32(raw.dtype):
            return raw
        made = np.empty(raw.shape, np.float32)
        start = 0
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow becomes an infinity; `check_prepared` finds it
            for block in blocks(raw):
                made[start : start + len(block)] = centred(block, np.array(self.mean)) / np.array(self.std)
                start += len(block)
        return made

    def on_device(self, sent: Array) -> Array:
        """The model inputs from the result of `on_host`."""
        return sent if sent.dtype == jnp.float32 else self._scaled(sent)

    def _scaled(self, inputs: Array) -> Array:
        shape = (1,) * (inputs.ndim - 1) + (-1,)
        mean, std = (jnp.asarray(v, jnp.float32).reshape(shape) for v in (self.mean, self.std))
        return (inputs.astype(jnp.float32) - mean) / std

    def undo(self, prepared: np.ndarray) -> np.ndarray:
        """The raw inputs of some prepared ones: the inverse of the scaling, float64, same shape."""
        return np.asarray(prepared, np.float64) * np.array(self.std) + np.array(self.mean)


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """Casts token ids to int32, the dtype that models take."""

    def __call__(self, inputs: Any) -> Any:
        """Integers of any size to int32, same shape."""
        return inputs.astype(jnp.int32)

    def on_host(self, raw: np.ndarray) -> np.ndarray:
        """The array that is sent to the device: the tokens, with at most 32 bits."""
        return raw if raw.dtype.itemsize <= 4 else raw.astype(np.int32)

    def on_device(self, sent: Array) -> Array:
        """The model inputs from the result of `on_host`."""
        return sent.astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class AsGiven(TokenIds):
    """Keeps whole numbers and truth values unscaled: the former as int32, the latter as booleans."""

    def __call__(self, inputs: Any) -> Any:
        """Same shape."""
        return inputs if inputs.dtype == bool else super().__call__(inputs)

    def on_device(self, sent: Array) -> Array:
        """The model inputs from the result of `on_host`."""
        return sent if sent.dtype == bool else super().on_device(sent)


def fit_standardize(inputs: np.ndarray) -> Standardize:
    """Mean and standard deviation of each channel (images) or feature; a constant one gets `std` 1.

    Args:
        inputs: `[N, ..., features]` real numbers.

    Raises:
        DataError: the mean or deviation overflows float64.
    """
    mean, std = mean_and_deviation(inputs)
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise DataError(f"inputs up to {np.abs(inputs).max():g} are too large to standardise; rescale them first")
    return Standardize(tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist()))
