"""The three hooks of every run, in the order they must run: log, evaluate, save.

Saving comes last, so that a checkpoint of step k implies that every record up to step k is written.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxnets.tasks.base import Task
from jaxnets.training.checkpoint import Checkpoints
from jaxnets.training.evaluate import Evaluator
from jaxnets.training.loop import Every, Moment, StepMetrics

Record = dict[str, Any]


class LogHook:
    """Writes a train record at each due step: the means over the steps since the one before.

    The sums are kept in float64 and added step by step, so a record does not depend on how many steps a call ran.
    """

    def __init__(
        self,
        due: Every,
        task: Task,
        *,
        batch_size: int,
        record: Callable[[Record], None],
        show: Callable[[int, Mapping[str, float]], None],
    ) -> None:
        self._due, self._task, self._batch_size = due, task, batch_size
        self._record, self._show = record, show
        self._sums: dict[str, list[float]] = {}
        self._began, self._timed = time.perf_counter(), 0
        self._shown: dict[str, float] = {}

    @property
    def partial(self) -> dict[str, list[float]]:
        """Sums and weights since the last record, a copy: what a checkpoint in between must remember."""
        return {name: list(pair) for name, pair in self._sums.items()}

    @partial.setter
    def partial(self, sums: dict[str, list[float]]) -> None:
        self._sums = {name: [float(v) for v in pair] for name, pair in sums.items()}

    def next_after(self, step: int) -> int | None:
        """See `Hook`."""
        return self._due.next_after(step)

    def observe(self, first_step: int, metrics: StepMetrics) -> None:
        """Add the steps to the sums, and tell the console."""
        count = len(next(iter(metrics.values()))[0])
        # A step that was left out has no loss to speak of; it counts in "skipped" alone.
        skipped = metrics["skipped"][0] > 0 if "skipped" in metrics else np.zeros(count, bool)
        for name, (sums, weights) in metrics.items():
            total = self._sums.setdefault(name, [0.0, 0.0])
            for value, weight, left_out in zip(sums.tolist(), weights.tolist(), skipped.tolist(), strict=True):
                if name == "skipped" or not left_out:
                    total[0] += value
                    total[1] += weight
        self._timed += count
        self._show(first_step + count, self._shown)

    def run(self, moment: Moment) -> None:
        """Write the record."""
        values = {name: total / weight if weight else float("nan") for name, (total, weight) in self._sums.items()}
        values = self._task.derive(values)
        now = time.perf_counter()
        speed = self._timed * self._batch_size / max(now - self._began, 1e-9)
        self._sums, self._began, self._timed = {}, now, 0
        self._shown = {k: v for k, v in values.items() if k not in ("gradient_norm", "skipped")}
        self._shown["examples_per_second"] = speed
        self._record({"step": moment.step, "split": "train", **values, "examples_per_second": round(speed, 1)})
        self._show(moment.step, self._shown)


class EvaluateHook:
    """Writes a test record at each due step."""

    def __init__(self, due: Every, evaluator: Evaluator, *, record: Callable[[Record], None]) -> None:
        self._due, self._evaluator, self._record = due, evaluator, record

    def next_after(self, step: int) -> int | None:
        """See `Hook`."""
        return self._due.next_after(step)

    def observe(self, first_step: int, metrics: StepMetrics) -> None:
        """Nothing to see in training metrics."""

    def run(self, moment: Moment) -> None:
        """Measure the averaged weights where there are any, else the current ones."""
        self._record({"step": moment.step, "split": "test", **self._evaluator.metrics(moment.state.best_variables)})


class SaveHook:
    """Saves a checkpoint at each due step."""

    def __init__(self, due: Every, checkpoints: Checkpoints, *, host: Callable[[], Any]) -> None:
        self._due, self._checkpoints, self._host = due, checkpoints, host
        self.blocked_seconds = 0.0

    def next_after(self, step: int) -> int | None:
        """See `Hook`."""
        return self._due.next_after(step)

    def observe(self, first_step: int, metrics: StepMetrics) -> None:
        """Nothing to see in training metrics."""

    def run(self, moment: Moment) -> None:
        """Copy the state off the device; the writing goes on behind the next steps."""
        began = time.perf_counter()
        self._checkpoints.save(moment.step, jax.block_until_ready(moment.state), self._host())
        self.blocked_seconds += time.perf_counter() - began
