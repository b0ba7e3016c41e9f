"""Guards: the reaction of a run to non-finite numbers and spikes of the loss.

A step whose loss or gradient is not finite never changes the weights (see `step.py`). What happens next is a policy. A spike
of the loss is finite, so the update was made: the run rolls back to a checkpoint before it and leaves out the batch. Since
batches are a pure function of the step, a roll-back repeats the same steps, and the result is that of a run without this
batch; it does not depend on when checkpoints were saved.
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
    """How to detect a spike of the loss, and how to continue after the roll-back."""

    spike: float = 0.0
    """A loss that is this many times the recent spread above the recent median is a spike; 10 is a good value, 0 turns it
    off."""
    window: int = 100
    """Number of recent steps for the median and the spread; there are no spikes before a quarter of them are done."""
    leave_out: int = 1
    """Batches that are left out after a roll-back: the one at fault and those just before it."""
    rollbacks: int = 10
    """Most roll-backs of a run; after them it stops with an error."""

    def __post_init__(self) -> None:
        if not 0 <= self.spike < math.inf:
            raise UsageError(f"guard.spike is at least 0, got {self.spike}")
        for name, least in (("window", 8), ("leave_out", 1), ("rollbacks", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"guard.{name} is at least {least}, got {getattr(self, name)}")


class RollBackError(JaxnetsError):
    """The run must roll back: update `step` was bad."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


class SpikeWatch:
    """Detects spikes in the losses of all steps, in order."""

    def __init__(self, guard: Guard, recent: Sequence[float] = ()) -> None:
        """`recent` is `self.recent` from a checkpoint."""
        self._guard = guard
        self._losses: deque[float] = deque(recent, maxlen=guard.window)

    @property
    def recent(self) -> list[float]:
        """The recent losses, a copy."""
        return list(self._losses)

    def observe(self, first_step: int, metrics: StepMetrics) -> None:
        """Raise `RollBackError` at the first spike among the steps `first_step + 1, ...`."""
        if not self._guard.spike or "loss" not in metrics:
            return
        for offset, (total, weight) in enumerate(zip(*metrics["loss"], strict=True)):
            if not weight or not np.isfinite(total):
                continue  # left out, or handled by the other guard
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
