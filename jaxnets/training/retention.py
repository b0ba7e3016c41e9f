"""When checkpoints come, and which stay."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from jaxnets.errors import UsageError

# Seconds in the units of a time between saves.
UNITS = {"s": 1, "min": 60, "h": 3600}


def seconds_between_saves(every: int | str) -> float:
    """The seconds of a `save_every` that is a time; 0 for one in steps."""
    if isinstance(every, int):
        if every < 0:
            raise UsageError(f"save_every is at least 0, got {every}")
        return 0.0
    number = every.rstrip("sminh ")
    unit = every[len(number) :].strip()
    try:
        seconds = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        seconds = -1.0
    if not 0 < seconds < math.inf:
        raise UsageError(f'save_every is a number of steps, or a time such as "10min", "90s" or "2h"; got {every!r}')
    return seconds


@dataclasses.dataclass(frozen=True)
class Keep:
    """Checkpoints that are kept; the newest always is, and nothing is removed before a newer one is complete."""

    last: int = 3
    """This many of the newest."""
    every: int = 0
    """All whose step is a multiple of this, for good; 0: none."""
    best: str = ""
    """Name of a test metric (`accuracy`, say): of the checkpoints saved at an evaluation, the one with its best value."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less of it is better."""

    def __post_init__(self) -> None:
        if self.last < 1:
            raise UsageError(f"keep.last is at least 1, got {self.last}")
        if self.every < 0:
            raise UsageError(f"keep.every is a number of steps, or 0 for none; got {self.every}")

    def choose(self, steps: Mapping[int, Mapping[str, float]]) -> set[int]:
        """The steps to keep, of complete checkpoints with the test metrics measured at them."""
        kept = set(sorted(steps)[-self.last :])
        if self.every:
            kept |= {step for step in steps if step % self.every == 0}
        best = best_step(steps, self.best, self.mode) if self.best else None
        return kept | ({best} if best is not None else set())


def best_step(steps: Mapping[int, Mapping[str, float]], metric: str, mode: str) -> int | None:
    """The step with the best value of a metric, the newest of equals; None where none has it."""
    sign = 1.0 if mode == "max" else -1.0
    # NaN compares with nothing: a checkpoint that has it is no candidate.
    scored = [(sign * m[metric], step) for step, m in steps.items() if metric in m and m[metric] == m[metric]]
    return max(scored)[1] if scored else None
