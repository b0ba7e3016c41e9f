"""Guards: what a run does when a number goes wrong.

A step whose loss or gradient is not finite never changes the weights (see `step.py`). What happens next is a policy. A spike
of the loss is finite, so the update was made: the run goes back to a checkpoint before it and leaves out the batch. Since
batches are a pure function of the step, going back repeats the same steps, and the result is that of a run which left the
batch out from the start; it does not depend on when checkpoints were saved.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from jaxnets.core.errors import JaxnetsError, NonFiniteError, UsageError

# name -> (sums, weights), one entry of each for every step: the metrics of a call, on the host.
StepMetrics = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Guard:
    """How to notice a spike of the loss, and how to go on after going back."""

    spike: float = 0.0
    """A loss this many times the recent spread above the recent median is a spike; 10 is a fair value, 0 looks for none."""
    window: int = 100
    """Recent steps that say what is usual; nothing is a spike before a quarter of them are seen."""
    leave_out: int = 1
    """Batches that are left out after going back: the one at fault and those just before it."""
    rollbacks: int = 10
    """Times a run goes back before it gives up."""

    def __post_init__(self) -> None:
        if not 0 <= self.spike < math.inf:
            raise UsageError(f"guard.spike is at least 0, got {self.spike}")
        for name, least in (("window", 8), ("leave_out", 1), ("rollbacks", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"guard.{name} is at least {least}, got {getattr(self, name)}")


class RollBackError(JaxnetsError):
    """The run must go back: update `step` was wrong."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


class SpikeWatch:
    """Looks at the loss of every step, in order."""

    def __init__(self, guard: Guard, recent: Sequence[float] = ()) -> None:
        """`recent` is what a checkpoint remembered of `self.recent`."""
        self._guard = guard
        self._losses: deque[float] = deque(recent, maxlen=guard.window)

    @property
    def recent(self) -> list[float]:
        """The losses that say what is usual, a copy."""
        return list(self._losses)

    def observe(self, first_step: int, metrics: StepMetrics) -> None:
        """Raise `RollBackError` at the first spike among the steps `first_step + 1, ...`."""
        if not self._guard.spike or "loss" not in metrics:
            return
        for offset, (total, weight) in enumerate(zip(*metrics["loss"], strict=True)):
            if not weight or not np.isfinite(total):
                continue  # left out, or the business of the other guard
            loss = float(total / weight)
            if len(self._losses) >= max(8, self._guard.window // 4):
                usual = float(np.median(self._losses))
                # The median distance from the median: a spike does not move it. Never quite 0, for a loss that stands still.
                distances = np.abs(np.asarray(self._losses) - usual)
                spread = max(float(np.median(distances)), 1e-3 * abs(usual), 1e-12)
                if loss > usual + self._guard.spike * spread:
                    step = first_step + offset + 1
                    raise RollBackError(
                        step, f"step {step}: the loss is {loss:.4g} where {usual:.4g} ± {spread:.2g} is usual"
                    )
            self._losses.append(loss)


def first_bad(metrics: StepMetrics) -> int | None:
    """The first of these steps that was not finite, counted from 0."""
    if "skipped" in metrics:
        bad = metrics["skipped"][0] > 0
    else:
        bad = ~np.isfinite(metrics["loss"][0]) if "loss" in metrics else np.zeros(0, bool)
    return int(np.flatnonzero(bad)[0]) if bad.any() else None


def fault(step: int, what: str, *, policy: str) -> JaxnetsError:
    """The error for a step that was not finite, under a policy: "halt" or "rollback"."""
    if policy == "rollback":
        return RollBackError(step, f"step {step} is not finite ({what})")
    return NonFiniteError(
        f"step {step} is not finite ({what}); its batch is number {step - 1} and its update was left out. Lower the "
        f"learning rate, clip the gradient (optimizer.clip_norm), or train on with on_nonfinite='skip' or 'rollback'"
    )


def describe(offset: int, metrics: StepMetrics, leaves: Sequence[str]) -> str:
    """The numbers of one step in words, and the first parameter whose gradient is not finite."""
    hidden = ("skipped", "bad_leaf")
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {name: float(sums[offset] / weights[offset]) for name, (sums, weights) in metrics.items()}
    parts = [f"{name} {value:g}" for name, value in values.items() if name not in hidden]
    number = int(values.get("bad_leaf", 0))
    if 0 < number <= len(leaves):
        parts.append(f"first at the gradient of {leaves[number - 1]}")
    return ", ".join(parts)
