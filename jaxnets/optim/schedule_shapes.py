"""Further shapes of the learning rate over a run: each is a formula, computed by Optax's function if there is one.

In the formulas t is the number of the batch, w the steps of the warm-up and T those of the run.
"""

import dataclasses
import itertools
import math
from typing import Any, Literal

import jax.numpy as jnp
import optax

from jaxnets.core.durations import Clock, in_steps
from jaxnets.core.errors import UsageError
from jaxnets.optim.schedules import Schedule, warmed

# The most periods of `Restarts`; each is a part of the compiled program.
MOST_PERIODS = 200


@dataclasses.dataclass(frozen=True)
class WSD(Schedule):
    """Warm-up, stable, decay (Hu et al. 2024, arXiv:2404.06395): the peak is kept until the last part of the run.

    With x from 0 to 1 over the decay, the rate is the peak times `1 - x` (linear) or `1 - sqrt(x)` (Hägele et al. 2024,
    arXiv:2405.18392). If a run is too short for both, the decay takes the steps after the warm-up.
    """

    warmup: float | str = 0.05
    """Time spent warming up: a share of the run, or "500ba", "2ep"."""
    decay: float | str = 0.2
    """Length of the decay, which ends with the run."""
    shape: Literal["linear", "1-sqrt"] = "linear"
    """Shape of the decay."""
    final: float = 0.0
    """Learning rate at the end of the run, as a share of the peak."""

    durations = ("warmup", "decay")

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        warm, length = (in_steps(part, Clock(total_steps)) for part in (self.warmup, self.decay))
        length = min(length, max(0, total_steps - warm))
        power = 1.0 if self.shape == "linear" else 0.5

        def down(count: Any) -> Any:
            x = jnp.clip(count / max(1, length), 0.0, 1.0)
            return peak * (1 - (1 - self.final) * x**power)

        stable = optax.constant_schedule(peak)
        rest = optax.join_schedules([stable, down], [total_steps - length - warm]) if length else stable
        return warmed(peak, warm, rest)


@dataclasses.dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from a small rate to the peak, then down to a much smaller one (Smith and Topin 2018, arXiv:1708.07120).

    The momentum is not changed.
    """

    warmup: float | str = 0.3
    """Time until the peak: a share of the run, or "500ba", "2ep"."""
    start: float = 1 / 25
    """Learning rate at step 0, as a share of the peak, in (0, 1]."""
    final: float = 4e-6
    """Learning rate at the end of the run, as a share of the peak."""
    shape: Literal["cosine", "linear"] = "cosine"
    """Shape between these values."""

    durations = ("warmup",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.start <= 1:
            raise ValueError(f"start is a share of the peak, in (0, 1]; got {self.start}")

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        warm, total_steps = in_steps(self.warmup, Clock(total_steps)), max(1, total_steps)
        if warm <= 0:
            return optax.piecewise_interpolate_schedule(self.shape, peak, {total_steps: self.final})
        down = {total_steps: self.final} if warm < total_steps else {}
        return optax.piecewise_interpolate_schedule(self.shape, peak * self.start, {warm: 1 / self.start, **down})


@dataclasses.dataclass(frozen=True)
class Restarts(Schedule):
    """Half a cosine down, then again from the peak, in periods that grow (SGDR, Loshchilov and Hutter 2017)."""

    first: float | str = 1 / 7
    """Length of the first period; the default with `growth` 2 gives three whole periods."""
    growth: float = 2.0
    """Each period is so many times as long as the one before, at least 1."""
    final: float = 0.0
    """Learning rate at the end of a period, as a share of the peak."""

    durations = ("first",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.growth < math.inf:
            raise ValueError(f"growth is a number, at least 1; got {self.growth}")

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        first = max(1, in_steps(self.first, Clock(total_steps)))
        starts = [0]  # rounded from the exact times, so that errors do not add up
        while starts[-1] < total_steps:
            if len(starts) > MOST_PERIODS:
                raise UsageError(
                    f"Restarts has more than {MOST_PERIODS} periods in {total_steps} steps; make `first` longer "
                    f"than {first} steps, or `growth` larger than {self.growth:g}"
                )
            starts.append(max(starts[-1] + 1, round(first * sum(self.growth**k for k in range(len(starts))))))
        lengths = [after - before for before, after in itertools.pairwise(starts)] or [1]
        return optax.sgdr_schedule([
            {"init_value": peak, "peak_value": peak, "warmup_steps": 0, "decay_steps": n, "end_value": self.final * peak}
            for n in lengths
        ])  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Steps(Schedule):
    """Multiplied by a factor at each of some times (He et al. 2016)."""

    at: tuple[float | str, ...] = (0.5, 0.75)
    """Times of the changes: shares of the run, or "500ba", "30ep"; the step itself has the new rate."""
    factor: float = 0.1
    """What the rate is multiplied by."""
    warmup: float | str = 0.0
    """Time spent warming up, from 0."""

    durations = ("at", "warmup")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_factor(self.factor)

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        clock = Clock(total_steps)
        scales: dict[int, float] = {}
        for step in (in_steps(time, clock) for time in self.at):
            scales[step] = scales.get(step, 1.0) * self.factor
        warm = in_steps(self.warmup, clock)
        return warmed(peak, warm, optax.piecewise_constant_schedule(peak, scales), from_zero=True)


@dataclasses.dataclass(frozen=True)
class Exponential(Schedule):
    """Multiplied by a factor in each period, smoothly: `peak * factor ** (t / every)`, t from the end of the warm-up."""

    factor: float = 0.01
    """What the rate is multiplied by in one period."""
    every: float | str = 1.0
    """Length of the period: a share of the run, or "500ba", "2ep"."""
    warmup: float | str = 0.0
    """Time spent warming up, from 0."""

    durations = ("every", "warmup")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_factor(self.factor)

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        every, warm = (in_steps(part, Clock(total_steps)) for part in (self.every, self.warmup))
        return warmed(peak, warm, optax.exponential_decay(peak, max(1, every), self.factor))


@dataclasses.dataclass(frozen=True)
class InverseTime(Schedule):
    """`peak / (1 + t / half)`, t from the end of the warm-up: a half of the peak at `half` (Robbins and Monro 1951)."""

    half: float | str = 0.1
    """Time until the rate is half the peak: a share of the run, or "500ba", "2ep"."""
    warmup: float | str = 0.0
    """Time spent warming up, from 0."""

    durations = ("half", "warmup")

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        half, warm = (in_steps(part, Clock(total_steps)) for part in (self.half, self.warmup))
        return warmed(peak, warm, lambda count: peak / (1 + count / max(1, half)))


@dataclasses.dataclass(frozen=True)
class InverseSquareRoot(Schedule):
    """Linear warm-up over w steps, then `peak * sqrt((w + 1) / (t + 1))` (Vaswani et al. 2017, section 5.3)."""

    warmup: float | str = 0.05
    """Time spent warming up: a share of the run, or "4000ba", "2ep"."""

    durations = ("warmup",)

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        warm = in_steps(self.warmup, Clock(total_steps))
        return warmed(peak, warm, lambda count: peak * jnp.sqrt((warm + 1) / (count + warm + 1)))


def _check_factor(factor: float) -> None:
    if not 0 < factor < math.inf:
        raise ValueError(f"factor is a positive number, got {factor}")
