"""Early stopping: the run ends when evaluations no longer improve (Prechelt 1998, Early Stopping - But When?)."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal

from jaxnets.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class EarlyStop:
    """Ends a run after `patience` consecutive evaluations that do not improve on the best value before them.

    The decision is a function of the evaluations alone, so a run that was cut and resumed ends at the same step.
    """

    metric: str = ""
    """Name of a metric of the evaluations; "": the task's headline."""
    patience: int = 3
    """Evaluations without improvement; 0: never end early."""
    min_delta: float = 0.0
    """An improvement is a change by more than this."""
    mode: Literal["auto", "max", "min"] = "auto"
    """Whether more or less is better; auto: as defined by the task, or as usual for a metric of this name."""

    def __post_init__(self) -> None:
        if self.patience < 0:
            raise UsageError(f"stop.patience is a number of evaluations, at least 0; got {self.patience}")
        if not 0 <= self.min_delta < math.inf:
            raise UsageError(f"stop.min_delta is at least 0, got {self.min_delta}")

    def ends_at(self, values: Iterable[tuple[int, float]], mode: str) -> int | None:
        """The step at which a run ends, from `(step, value)` of its evaluations in order; None: it continues. NaN is no
        improvement. `mode` is "max" or "min".
        """
        if not self.patience:
            return None
        best, waited = math.nan, 0
        for step, value in values:
            gain = value - best if mode == "max" else best - value
            if not math.isnan(value) and (math.isnan(best) or gain > self.min_delta):
                best, waited = value, 0
            else:
                waited += 1
            if waited >= self.patience:
                return step
        return None
