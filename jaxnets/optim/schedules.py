"""Learning-rate schedules. They count optimizer steps, and durations are shares of the run, so they survive a change of it."""

import dataclasses

import optax


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A shape for the learning rate over a run."""

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """The learning rate as a function of the step, from the peak value and the length of the run."""
        raise NotImplementedError


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a share of the run, between 0 and 1; got {value}")


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """The same learning rate at every step."""

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        del total_steps
        return optax.constant_schedule(peak)


@dataclasses.dataclass(frozen=True)
class WarmupCosine(Schedule):
    """Linear warm-up from 0, then half a cosine down (Loshchilov and Hutter, 2017)."""

    warmup: float = 0.05
    """Share of the run spent warming up."""
    final: float = 0.0
    """What the learning rate falls to at the end of the run, as a share of the peak."""

    def __post_init__(self) -> None:
        _check_share("warmup", self.warmup)
        _check_share("final", self.final)

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        warm = round(self.warmup * total_steps)
        decay = optax.cosine_decay_schedule(peak, max(1, total_steps - warm), alpha=self.final)
        return optax.join_schedules([_ramp(peak, warm), decay], [warm]) if warm else decay


@dataclasses.dataclass(frozen=True)
class WarmupLinear(Schedule):
    """Linear warm-up from 0, then a straight line down (a triangle, as in "one cycle" runs)."""

    warmup: float = 0.2
    """Share of the run spent warming up."""
    final: float = 0.0
    """What the learning rate falls to at the end of the run, as a share of the peak."""

    def __post_init__(self) -> None:
        _check_share("warmup", self.warmup)
        _check_share("final", self.final)

    def build(self, peak: float, total_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        warm = round(self.warmup * total_steps)
        decay = optax.linear_schedule(peak, self.final * peak, max(1, total_steps - warm))
        return optax.join_schedules([_ramp(peak, warm), decay], [warm]) if warm else decay


def _ramp(peak: float, steps: int) -> optax.Schedule:
    # Starts one notch above 0, so that the first step moves.
    return lambda count: peak * (count + 1) / (steps + 1)
