"""The standard hooks of a run: log, evaluate, save."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnets.checkpoints.checkpoint import Checkpoints
from jaxnets.checkpoints.retention import better
from jaxnets.tasks.base import Task
from jaxnets.training.evaluate import Evaluator
from jaxnets.training.guards import StepMetrics, describe
from jaxnets.training.plan import Every, Moment
from jaxnets.training.stopping import Stopping

Record = dict[str, Any]


class LogHook:
    """Writes a train record at each due step: the means over the steps since the one before.

    The sums are kept in float64 and added step by step, so a record does not depend on how many steps a call ran.
    """

    name = "log"

    def __init__(
        self,
        due: Every,
        task: Task,
        *,
        examples: Callable[[int], int],
        record: Callable[[Record], None],
        show: Callable[[int, Mapping[str, float]], None],
        event: Callable[[int, str], None] = lambda step, what: None,
        leaves: Callable[[], Sequence[str]] = tuple,
        elsewhere: Callable[[], float] = lambda: 0.0,
        utilisation: Callable[[float], float] | None = None,
    ) -> None:
        """Set what is logged, and when.

        Args:
            due: steps at which to write.
            task: derives the numbers that are not means.
            examples: gives the examples of all steps before one.
            record: takes a record.
            show: takes the step and the newest numbers, after every call.
            event: takes the step and the description of each step that was left out because it was not finite.
            leaves: gives the paths of the parameters, for those descriptions.
            elsewhere: gives the seconds so far that were not spent on steps; the speed is without them.
            utilisation: gives the share of the devices' peak for a number of examples per second; None: it is not known.
        """
        self._elsewhere, self._utilisation = elsewhere, utilisation
        self._due, self._task, self._examples = due, task, examples
        self._event, self._leaves = event, leaves
        self._record, self._show = record, show
        self._sums: dict[str, list[float]] = {}
        self._began, self._timed = self._clock(), 0
        self._shown: dict[str, float] = {}

    def _clock(self) -> float:
        """Seconds spent on steps since some moment."""
        return time.perf_counter() - self._elsewhere()

    @property
    def partial(self) -> dict[str, list[float]]:
        """Sums and weights since the last record, a copy: a checkpoint in between must save them."""
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
        # A step that was left out has no valid loss; it counts in "skipped" only.
        skipped = metrics["skipped"][0] > 0 if "skipped" in metrics else np.zeros(count, bool)
        for offset in np.flatnonzero(skipped).tolist():
            self._event(first_step + offset + 1, describe(offset, metrics, self._leaves()))
        for name, (sums, weights) in metrics.items():
            if name == "bad_leaf":  # a number of a leaf; its mean says nothing
                continue
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
        now = self._clock()
        used = self._examples(moment.step) - self._examples(moment.step - self._timed)
        speed = used / max(now - self._began, 1e-9)
        self._began, self._timed = now, 0
        if self._due.is_multiple(moment.step):
            self._sums = {}  # if the record is due only because the run ends here, a longer run still needs the sums
        self._shown = {k: v for k, v in values.items() if k not in ("gradient_norm", "skipped")}
        self._shown["examples_per_second"] = speed
        reached = {} if self._utilisation is None else {"mfu": float(f"{self._utilisation(speed):.3g}")}
        self._shown |= reached
        logged = {**values, "examples_per_second": round(speed, 1), **reached}
        self._record({"step": moment.step, "split": "train", **logged})
        self._show(moment.step, self._shown)


class EvaluateHook:
    """Writes a record of a split at each due step."""

    name = "evaluate"

    def __init__(
        self,
        due: Every,
        evaluator: Evaluator,
        *,
        record: Callable[[Record], None],
        split: str = "test",
        stopping: Stopping | None = None,
    ) -> None:
        self._split = split
        self._due, self._evaluator, self._record = due, evaluator, record
        self._stopping = stopping or Stopping()
        self.newest: tuple[int, dict[str, float]] = (-1, {})
        """The step of the last evaluation in this process, and its numbers."""

    def next_after(self, step: int) -> int | None:
        """See `Hook`."""
        return self._due.next_after(step)

    def observe(self, first_step: int, metrics: StepMetrics) -> None:
        """Training metrics are not used."""

    def run(self, moment: Moment) -> None:
        """Measure the averaged weights if there are any, else the current ones."""
        values = self._evaluator.metrics(moment.state.best_variables, poll=self._stopping.leave_if_requested)
        self.newest = (moment.step, values)
        self._record({"step": moment.step, "split": self._split, **values})


class SaveHook:
    """Saves a checkpoint at each due step and, if `seconds` are given, whenever so many have passed since the last."""

    def __init__(
        self,
        due: Every,
        checkpoints: Checkpoints,
        *,
        host: Callable[[], dict[str, Any]],
        metrics: Callable[[], tuple[int, dict[str, float]]] = lambda: (-1, {}),
        sync: Callable[[], None] = lambda: None,
        saved: Callable[[int], None] = lambda step: None,
        seconds: float = 0.0,
        best: tuple[str, str, float | None] | None = None,
    ) -> None:
        """Set what is saved, and when.

        Args:
            due: steps at which to save.
            checkpoints: where to.
            host: gives the data of the host to save beside the state.
            metrics: gives the newest metrics of an evaluation and the step they were measured at.
            sync: makes sure that the records up to now are on the disk.
            saved: gets the step of each save.
            seconds: by the clock; 0: only at due steps.
            best: name of a metric, "max" or "min", and its best value so far: an evaluation that is better is saved as well.
        """
        self._best, self._saved = best, saved
        self._due, self._checkpoints, self._host, self._metrics = due, checkpoints, host, metrics
        self._sync, self._seconds, self._last = sync, seconds, time.monotonic()

    def next_after(self, step: int) -> int | None:
        """See `Saver`."""
        return self._due.next_after(step)

    def wants_now(self) -> bool:
        """See `Saver`. On a monotonic clock: setting the wall clock back does not keep a run from saving."""
        return self._seconds > 0 and time.monotonic() - self._last >= self._seconds

    def improved(self, step: int) -> bool:
        """See `Saver`: the metrics of this step are better than all before. True once only."""
        at, values = self._metrics()
        if self._best is None or at != step:
            return False
        name, mode, so_far = self._best
        value = values.get(name, math.nan)
        if not better(value, so_far, mode):
            return False
        self._best = name, mode, value
        return True

    def run(self, moment: Moment) -> None:
        """Copy the state off the device; the writing goes on behind the next steps."""
        self._sync()
        host = {**self._host(), "pending": list(moment.pending)}
        state = jax.block_until_ready(moment.state)
        self._checkpoints.save(moment.step, state, host, metrics=self._measured(moment.step))
        self._last = time.monotonic()
        self._saved(moment.step)

    def finish(self) -> None:
        """See `Saver`."""
        self._checkpoints.wait()

    def clear_pending(self, moment: Moment) -> None:
        """See `Saver`: the checkpoint lists no pending hook any more, and has what was measured."""
        self._sync()
        self.improved(moment.step)
        self._checkpoints.clear_pending(moment.step, self._measured(moment.step))

    def _measured(self, step: int) -> dict[str, float]:
        at, values = self._metrics()
        return dict(values) if at == step else {}
