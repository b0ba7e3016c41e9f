"""The callbacks that come with jaxnets."""

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnets.callbacks.callback import Callback, Progress
from jaxnets.checkpoints.retention import seconds_between_saves
from jaxnets.core.errors import UsageError


class Call(Callback):
    """A function of your own, `function(run)`, every so many steps; numbers in a dict that it returns go into the log."""

    def __init__(self, function: Callable[[Progress], Any], every: int) -> None:
        if every < 1:
            raise UsageError(f"Call: every is a number of steps, at least 1; got {every}")
        self.function, self.every = function, every

    def at(self, run: Progress) -> None:
        """See `Callback`."""
        values = self.function(run)
        if isinstance(values, dict):
            run.log(**values)


class TimeLimit(Callback):
    """Stops a run after some time, such as "2h" or "30min", over all its stretches; what was trained is saved."""

    def __init__(self, limit: str) -> None:
        self.seconds = seconds_between_saves(limit)
        self._spent, self._began = 0.0, 0.0

    def started(self, run: Progress) -> None:
        """See `Callback`."""
        self._began = time.monotonic()

    def stepped(self, run: Progress, step: int, metrics: Any) -> None:
        """See `Callback`."""
        if self.state() >= self.seconds:
            run.stop(f"the time limit of {self.seconds:g} s is over")

    def state(self) -> float:
        """Seconds so far."""
        return self._spent + (time.monotonic() - self._began if self._began else 0.0)

    def restore(self, state: Any) -> None:
        """See `Callback`."""
        self._spent = float(state)


class DeviceMemory(Callback):
    """Logs the bytes in use and their peak on the first device, where the device says so (GPU and TPU do, a CPU does not)."""

    def __init__(self, every: int = 100) -> None:
        self.every = every

    def at(self, run: Progress) -> None:
        """See `Callback`."""
        stats = jax.local_devices()[0].memory_stats() or {}
        found = {name: stats[name] for name in ("bytes_in_use", "peak_bytes_in_use") if name in stats}
        if found:
            run.log(**found)


class Samples(Callback):
    """Shows what `make(run)` gives every so many steps: a text, or an image `[H, W]` or `[H, W, 3]` (see `Progress.show`).

    Without a run directory they are kept in `shown`, as (step, text or image).
    """

    def __init__(self, make: Callable[[Progress], Any], every: int, name: str = "samples") -> None:
        self.make, self.every, self.name = make, every, name
        self.shown: list[tuple[int, Any]] = []

    def at(self, run: Progress) -> None:
        """See `Callback`."""
        made = self.make(run)
        run.show(self.name, made)
        if run.directory is None:
            self.shown.append((run.step, made))


class WritePredictions(Callback):
    """Writes the predictions of the test split at the end: row number, prediction, target, and the raw outputs."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def ended(self, run: Progress) -> None:
        """See `Callback`."""
        parts = run.parts
        asked = {name: parts.dataset.test[name] for name in parts.dataset.preparation.names}
        outputs = run.outputs(asked)
        decided, targets = parts.task.decide(outputs), parts.dataset.test["targets"]
        flat = outputs.reshape(len(outputs), -1)
        with self.path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "prediction", "target", *(f"output_{i}" for i in range(flat.shape[1]))])
            for row in range(len(flat)):
                shown = (np.asarray(value[row]).tolist() for value in (decided, targets))
                writer.writerow([row, *shown, *flat[row].tolist()])
