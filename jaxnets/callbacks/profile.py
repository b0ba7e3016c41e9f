"""A trace of some steps by JAX's profiler, and a table of its costliest operations."""

import collections
import gzip
import json
import re
from pathlib import Path
from typing import Any

import jax

from jaxnets.callbacks.callback import Callback, Progress
from jaxnets.core.errors import UsageError, note
from jaxnets.core.files import replacing
from jaxnets.parallel.hosts import is_first

# In a run directory: the trace (TensorBoard and xprof open it), and the table for the report.
FOLDER, TABLE = "profile", "operations.json"
MOST_OPERATIONS = 30


class Profile(Callback):
    """Traces the steps from A to B, given as "A:B", into `RUN/profile`; `xprof RUN/profile` or TensorBoard opens it.

    Steps that are compiled into one call are traced whole calls at a time, which end at A and B.
    """

    def __init__(self, steps: str, directory: str | Path | None = None) -> None:
        found = re.fullmatch(r"(\d+):(\d+)", steps)
        self.first, self.last = (int(number) for number in found.groups()) if found else (0, 0)
        if not 0 < self.first < self.last:
            raise UsageError(f"profile is two steps, the first above 0, such as 20:30; got {steps!r}")
        self.directory = None if directory is None else Path(directory)
        self._tracing = False

    def next_after(self, step: int) -> int | None:
        """See `Callback`."""
        return next((at for at in (self.first, self.last) if at > step), None)

    def started(self, run: Progress) -> None:
        """See `Callback`."""
        if self.directory is None and run.directory is None:
            raise UsageError("Profile needs a place for its trace: Profile(steps, directory=...), or a run directory")
        if run.step >= self.first:
            note(f"step {self.first} is over, so nothing is profiled")
        elif self.last > run.steps:
            note(f"the steps {self.first} to {self.last} are to be profiled, and the run has {run.steps}")

    def at(self, run: Progress) -> None:
        """See `Callback`."""
        jax.block_until_ready(run.variables)
        if run.step == self.first and not self._tracing:
            jax.profiler.start_trace(str(self._folder(run)))
            self._tracing = True
        else:
            self._end(run)

    def stopped(self, run: Progress, reason: str) -> None:
        """See `Callback`."""
        self._end(run)

    def failed(self, run: Progress, error: BaseException) -> None:
        """See `Callback`."""
        self._end(run)

    def ended(self, run: Progress) -> None:
        """See `Callback`."""
        self._end(run)

    def _end(self, run: Progress) -> None:
        if not self._tracing:
            return
        self._tracing = False
        jax.profiler.stop_trace()
        if not is_first():
            return
        folder = self._folder(run)
        try:
            rows = operations(folder)
            with replacing(folder / TABLE) as file:
                file.write(json.dumps(rows, indent=1).encode())
        except (
            OSError,
            ValueError,
            EOFError,
        ) as error:  # the trace itself is there, and the run is worth more than its table
            note(f"the costliest operations cannot be listed from {folder} ({type(error).__name__}: {error})")

    def _folder(self, run: Progress) -> Path:
        assert self.directory is not None or run.directory is not None
        return self.directory if self.directory is not None else Path(run.directory or "") / FOLDER


def operations(folder: Path) -> list[dict[str, Any]]:
    """The costliest operations in the newest trace below a folder: name, calls, milliseconds, share of all operations.

    Operations of one kind (`fusion.1`, `fusion.2`) stay apart. Times of parallel threads add up.
    """
    traces = sorted(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    if not traces:
        return []
    with gzip.open(traces[-1], "rt", encoding="utf-8") as file:
        events = json.load(file).get("traceEvents", [])
    times: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    for event in events:
        name = (event.get("args") or {}).get("hlo_op")
        if event.get("ph") == "X" and name:
            times[name] += event.get("dur", 0.0) / 1e3
            calls[name] += 1
    loops = {name for name in times if name.split(".")[0] in ("while", "conditional", "call")}  # made of the others
    whole = sum(value for name, value in times.items() if name not in loops) or 1.0
    return [
        {"operation": name, "calls": calls[name], "milliseconds": round(value, 3), "share": round(value / whole, 4)}
        for name, value in times.most_common(MOST_OPERATIONS + len(loops))
        if name not in loops
    ][:MOST_OPERATIONS]
