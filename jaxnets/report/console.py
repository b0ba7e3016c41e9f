"""Console output of a run: a progress bar on a terminal, plain lines elsewhere, or nothing if requested."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from jaxnets.core import streams
from jaxnets.core.errors import UsageError

# On terminals with fewer columns a box would cut names and numbers.
LEAST_FOR_A_BOX = 60

ProgressKind = Literal["auto", "bar", "lines", "none"]


class Console(Protocol):
    """The protocol of the console output of a run."""

    def start(self, start: int, total: int) -> None:
        """Called when training begins, at step `start` of `total`."""

    def advance(self, step: int, shown: Mapping[str, float]) -> None:
        """Called after step `step`; `shown` holds the newest metrics."""

    def say(self, text: str) -> None:
        """Print a line of text."""

    def stop(self) -> None:
        """Called when training has ended, with success or an error."""

    def summary(self, title: str, rows: Sequence[tuple[str, str]], closing: str) -> None:
        """Print the one-screen summary at the end."""


def make_console(kind: ProgressKind) -> Console:
    """The console of this kind; auto takes the bar on a terminal or in a notebook, and lines elsewhere."""
    if kind not in ("auto", "bar", "lines", "none"):
        raise UsageError(f"progress is auto, bar, lines or none, got {kind!r}")
    if kind == "none":
        return Silent()
    if kind == "lines" or (kind == "auto" and not _can_draw()):
        return Lines()
    return Bar()


def _can_draw() -> bool:
    """Whether a moving bar can be shown: in a notebook, or on a terminal that can overwrite a line."""
    if "ipykernel" in sys.modules:
        return True
    return streams.is_terminal(sys.stderr) and os.environ.get("TERM", "") not in ("dumb", "unknown")


def format_numbers(shown: Mapping[str, float]) -> str:
    """`loss 0.312  accuracy 0.914  9,120 examples/s`."""
    parts = []
    for name, value in shown.items():
        if name == "examples_per_second":
            parts.append(f"{value:,.0f} examples/s")
        else:
            parts.append(f"{name.replace('_', ' ')} {value:.4g}")
    return "  ".join(parts)


class Silent:
    """Prints nothing."""

    def start(self, start: int, total: int) -> None:
        """See `Console`."""

    def advance(self, step: int, shown: Mapping[str, float]) -> None:
        """See `Console`."""

    def say(self, text: str) -> None:
        """See `Console`."""

    def stop(self) -> None:
        """See `Console`."""

    def summary(self, title: str, rows: Sequence[tuple[str, str]], closing: str) -> None:
        """See `Console`."""


class Lines:
    """Plain lines for logs and pipes, at most one every two seconds."""

    INTERVAL = 2.0

    def __init__(self) -> None:
        self._total, self._printed = 0, 0.0
        self._known: tuple[int, float] | None = None
        """A step and its time, from which the speed is counted: the first one known, which compiling came before."""

    def start(self, start: int, total: int) -> None:
        """See `Console`."""
        self._total, self._known = total, None
        self._printed = time.perf_counter()

    def advance(self, step: int, shown: Mapping[str, float]) -> None:
        """See `Console`."""
        now = time.perf_counter()
        if self._known is None:
            self._known = step, now
        if now - self._printed >= self.INTERVAL or step == self._total:
            self._printed = now
            first, began = self._known
            left = "compiled"
            if step > first or step == self._total:
                left = f"{(now - began) / max(step - first, 1) * (self._total - step):.0f} s left"
            numbers = format_numbers(shown)
            _say("  ".join(part for part in (f"step {step}/{self._total}", numbers, left) if part))

    def say(self, text: str) -> None:
        """See `Console`."""
        _say(text)

    def stop(self) -> None:
        """See `Console`."""

    def summary(self, title: str, rows: Sequence[tuple[str, str]], closing: str) -> None:
        """See `Console`."""
        _print_summary(title, rows, closing)


class Bar:
    """A rich progress bar with the remaining time."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._task: Any = None

    def start(self, start: int, total: int) -> None:
        """See `Console`."""
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.description}"),
        )
        self._progress = Progress(*columns, console=RichConsole(file=streams.tolerant(sys.stderr)))
        self._progress.start()
        self._task = self._progress.add_task("compiling", total=total, completed=start)

    def advance(self, step: int, shown: Mapping[str, float]) -> None:
        """See `Console`."""
        self._progress.update(self._task, completed=step, description=format_numbers(shown))

    def say(self, text: str) -> None:
        """See `Console`."""
        if self._progress is not None:
            self._progress.console.print(text, highlight=False, markup=False)
        else:
            _say(text)

    def stop(self) -> None:
        """See `Console`."""
        if self._progress is not None:
            self._progress.stop()

    def summary(self, title: str, rows: Sequence[tuple[str, str]], closing: str) -> None:
        """See `Console`."""
        _print_summary(title, rows, closing)


def _say(text: str) -> None:
    """Print a line on stderr."""
    streams.say(text)


def _print_summary(title: str, rows: Sequence[tuple[str, str]], closing: str) -> None:
    from rich import box
    from rich.console import Console as RichConsole
    from rich.measure import Measurement
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(name), Text(value))  # Text: names of the user are not markup
    panel = Panel(grid, title=Text(title), title_align="left", box=box.ROUNDED, expand=False)
    console = RichConsole(highlight=False, file=streams.tolerant(sys.stdout))
    needed = Measurement.get(console, console.options.update(max_width=10_000), panel).maximum
    if not console.is_terminal:  # files and pipes have no width limit
        console.width = max(console.width, needed)
    try:
        if console.width < min(needed, LEAST_FOR_A_BOX):
            for line in (title, *(f"{name}: {value}" for name, value in rows)):
                console.print(Text(line), soft_wrap=True)
        else:
            console.print(panel)
        if closing:
            console.print(Text(closing), soft_wrap=True)
    except (OSError, ValueError, SystemExit) as error:  # rich raises SystemExit if the pipe is closed
        # The run itself has succeeded, so do not fail.
        if not isinstance(error, SystemExit):
            streams.say(f"the summary cannot be written ({error})")
