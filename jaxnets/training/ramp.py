"""Smaller batches, images or sequences at the beginning of a run: the sizes of each step."""

import dataclasses

from jaxnets.core.durations import Clock, check_durations, in_steps
from jaxnets.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Stage:
    """Consecutive steps of a run whose batches have one shape."""

    first: int
    """Its first step."""
    batch_size: int
    """Examples in each step."""
    resolution: int = 0
    """Height of images in pixels; 0: as the data have it."""
    length: int = 0
    """Tokens in each sequence; 0: all."""

    def __str__(self) -> str:
        """Its sizes in words."""
        parts = [f"batches of {self.batch_size}"]
        parts += [f"images {self.resolution} pixels high"] if self.resolution else []
        return " and ".join(parts + ([f"sequences of {self.length} tokens"] if self.length else []))


@dataclasses.dataclass(frozen=True)
class Ramp:
    """Sizes before those of the run, in stages of equal numbers of steps; each stage compiles its program once.

    `Ramp(batch_size=(32, 64))` trains a quarter of the run on batches of 32 and a quarter on batches of 64, then the rest on
    batches of `Experiment.batch_size`. The learning rate is not changed with the batch size. Several sizes change at the same
    steps, so they need the same number of values.
    """

    durations = ("until",)

    until: float | str = 0.5
    """When the full sizes begin: a share of it, or another duration such as "3ep", in batches of the full size. 1: training
    never has them, only the evaluation (FixRes, Touvron et al. 2019)."""
    batch_size: tuple[int, ...] = ()
    """Examples in each step, stage by stage (Smith et al. 2018)."""
    resolution: tuple[int, ...] = ()
    """Height in pixels to which images are resized, stage by stage (progressive resizing, Howard 2018); the width in
    proportion."""
    length: tuple[int, ...] = ()
    """Tokens to which sequences are cut, stage by stage (sequence-length warm-up, Li et al. 2022)."""

    def __post_init__(self) -> None:
        check_durations(self, "until")
        sizes = {name: getattr(self, name) for name in ("batch_size", "resolution", "length") if getattr(self, name)}
        for name, values in sizes.items():
            if min(values) < 1:
                raise UsageError(f"ramp.{name} is positive numbers, got {values}")
        if len({len(values) for values in sizes.values()}) > 1:
            listed = " and ".join(f"{len(values)} of {name}" for name, values in sizes.items())
            raise UsageError(
                f"the sizes of a ramp change together, so each has as many values as the others; got {listed}"
            )

    @property
    def active(self) -> bool:
        """Whether any size changes."""
        return bool(self.batch_size or self.resolution or self.length)

    def stages(self, steps: int, batch_size: int) -> tuple[Stage, ...]:
        """The stages of a run of `steps` steps, the last one with its full sizes; those without a step are left out."""
        count = max(len(self.batch_size), len(self.resolution), len(self.length))
        until = in_steps(self.until, Clock(steps)) if count else 0
        firsts = [round(until * i / count) for i in range(count)] + [until]
        found = [
            Stage(
                first,
                _at(self.batch_size, i) or batch_size,
                _at(self.resolution, i),
                _at(self.length, i),
            )
            for i, first in enumerate(firsts)
        ]
        ends = [*firsts[1:], max(steps, firsts[-1] + 1)]
        return tuple(stage for stage, end in zip(found, ends, strict=True) if end > stage.first)


def _at(values: tuple[int, ...], index: int) -> int:
    return values[index] if index < len(values) else 0


def examples_until(stages: tuple[Stage, ...], step: int) -> int:
    """Examples in the batches of the steps before `step`."""
    ends = [*(stage.first for stage in stages[1:]), step]
    return sum(max(0, min(end, step) - stage.first) * stage.batch_size for stage, end in zip(stages, ends, strict=True))
