"""Random changes to series. Shapes: `B` batch, `T` steps, `C` channels.

See Um et al. 2017 (jitter, scaling, warping) and Le Guennec et al. 2016 (window slicing).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Batch
from jaxnets.data.augment.base import Augmentation, Facts, check_at_least_0, keys_of, wrong_inputs
from jaxnets.ops.random import named_keys


@dataclasses.dataclass(frozen=True)
class SeriesAugment(Augmentation):
    """Changes of series `[T, C]` and their strengths; the defaults change nothing. The length stays the same.

    For series whose target is a class or a number; a forecast of the next steps has targets in the unit and time of the
    inputs, so use `jitter` alone there.
    """

    jitter: float = 0.0
    """Standard deviation of Gaussian noise added to every prepared value."""
    scaling: float = 0.0
    """Standard deviation of a factor around 1 for each channel."""
    magnitude_warp: float = 0.0
    """Standard deviation of a smooth factor around 1 for each channel, drawn at `knots` points."""
    time_warp: float = 0.0
    """Standard deviation of the speed around 1, drawn at `knots` points; the series is read at the warped times."""
    knots: int = 4
    """Points between which a warp is linear, at least 2."""
    window: float = 1.0
    """Share of the steps of a window at a random place, stretched to the whole length; 1: the whole series."""

    def __post_init__(self) -> None:
        check_at_least_0(self, "jitter", "scaling", "magnitude_warp", "time_warp")
        if not 0 < self.window <= 1:
            raise ValueError(f"SeriesAugment.window is a share in (0, 1], got {self.window}")
        if self.knots < 2:
            raise ValueError(f"SeriesAugment.knots is at least 2, got {self.knots}")

    def check(self, facts: Facts) -> None:
        """See `Augmentation`."""
        if len(facts.shape) != 2 or facts.tokens:
            raise wrong_inputs(
                "SeriesAugment", "series of real numbers [steps, channels]", facts, "Use Augment for images and tables"
            )
        if facts.kind == "series" and (self.scaling or self.magnitude_warp or self.time_warp or self.window < 1):
            raise wrong_inputs(
                "SeriesAugment with scaling, warps or a window", "a target that is no continuation of the series", facts,
                "Use jitter alone for a forecast",
            )  # fmt: skip

    def change(self, batch: Batch, key: Array, facts: Facts) -> Batch:
        """See `Augmentation`."""
        return {**batch, "inputs": jax.vmap(self._one)(batch["inputs"], keys_of(batch, key))}

    def _one(self, series: Array, key: Array) -> Array:
        T, C = series.shape
        keys = named_keys(key, ("jitter", "scaling", "magnitude_warp", "time_warp", "window"))
        if self.window < 1:
            kept = max(2, round(self.window * T))
            start = jax.random.uniform(keys["window"]) * (T - kept)
            series = at_times(series, start + jnp.linspace(0.0, kept - 1.0, T))
        if self.time_warp:
            speed = 1.0 + self.time_warp * jax.random.normal(keys["time_warp"], (self.knots, 1))
            series = at_times(series, warped_times(curve(speed, T)[:, 0]))
        if self.scaling:
            series = series * (1.0 + self.scaling * jax.random.normal(keys["scaling"], (1, C)))
        if self.magnitude_warp:
            factors = 1.0 + self.magnitude_warp * jax.random.normal(keys["magnitude_warp"], (self.knots, C))
            series = series * curve(factors, T)
        if self.jitter:
            series = series + self.jitter * jax.random.normal(keys["jitter"], series.shape)
        return series


def curve(knots: Array, length: int) -> Array:
    """Linear interpolation of `knots` `[K, C]`, spread evenly over `length` steps: `[length, C]`."""
    return at_times(knots, jnp.linspace(0.0, knots.shape[0] - 1.0, length))


def warped_times(speed: Array) -> Array:
    """Times `[T]` from 0 to T - 1 that pass at `speed` `[T]`; a speed below .05 counts as .05, so time never runs back."""
    steps = jnp.maximum(speed, 0.05)
    steps = (steps[1:] + steps[:-1]) / 2
    passed = jnp.concatenate([jnp.zeros(1), jnp.cumsum(steps)])
    return passed * ((speed.shape[0] - 1) / passed[-1])


def at_times(series: Array, times: Array) -> Array:
    """A series `[T, C]` read at real times `[N]` in [0, T - 1], by linear interpolation: `[N, C]`."""
    places = jnp.arange(series.shape[0], dtype=jnp.float32)
    return jax.vmap(lambda channel: jnp.interp(times, places, channel), in_axes=1, out_axes=1)(series)
