"""What a run says on the console: a progress bar on a terminal, plain lines elsewhere, nothing when asked."""

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from jaxnets.errors import UsageError

ProgressKind = Literal["auto", "bar", "lines", "none"]


class Console(Protocol):
    """Where a run reports to."""

    def start(self, start: int, total: int) -> None:
        """Training begins at step `start` of `total`."""

    def advance(self, step: int, shown: Mapping[str, float]) -> None:
        """Step `step` is done; `shown` are the newest numbers."""

    def say(self, text: str) -> None:
        """A line of its own."""

    def stop(self) -> None:
        """Training has ended, well or badly."""

    def summary(self, title: str, rows: Sequence[tuple[str, str]], closing: str) -> None:
        """The one-screen summary at the end."""


def make_console(kind: ProgressKind) -> Console:
    """The console of a kind; auto takes the bar on a terminal or in a notebook and lines elsewhere."""
    if kind not in ("auto", "bar", "lines", "none"):
        raise UsageError(f"progress is auto, bar, lines or none, got {kind!r}")
    if kind == "none":
        return Silent()
    if kind == "lines" or (kind == "auto" and not (sys.stderr.isatty() or "ipykernel" in sys.modules)):
        return Lines()
    return Bar()


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
    """Says nothing."""

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
    """Plain lines, at most one every two seconds: for logs and pipes."""

    INTERVAL = 2.0

    def __init__(self) -> None:
        self._total, self._first, self._began, self._spoke = 0, 0, 0.0, 0.0

    def start(self, start: int, total: int) -> None:
        """See `Console`."""
        self._total, self._first = total, start
        self._began = self._spoke = time.perf_counter()

    def advance(self, step: int, shown: Mapping[str, float]) -> None:
        """See `Console`."""
        now = time.perf_counter()
        if now - self._spoke >= self.INTERVAL or step == self._total:
            self._spoke = now
            left = (now - self._began) / max(step - self._first, 1) * (self._total - step)
            _say(f"step {step}/{self._total}  {format_numbers(shown)}  {left:.0f} s left")

    def say(self, text: str) -> None:
        """See `Console`."""
        _say(text)

    def stop(self) -> None:
        """See `Console`."""

    def summary(self, title: str, rows: Sequence[tuple[str, str]], closing: str) -> None:
        """See `Console`."""
        _print_summary(title, rows, closing)


class Bar:
    """A progress bar with the time left, by rich."""

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
        self._progress = Progress(*columns, console=RichConsole(stderr=True))
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
    """A line on stderr. A run does not end because nobody listens any more (a pipe that was closed, say)."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _print_summary(title: str, rows: Sequence[tuple[str, str]], closing: str) -> None:
    from rich import box
    from rich.console import Console as RichConsole
    from rich.panel import Panel
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, value)
    console = RichConsole(highlight=False)
    with contextlib.suppress(SystemExit):  # rich's answer to a closed pipe; but the run has done its work, heard or not
        console.print(Panel(grid, title=title, title_align="left", box=box.ROUNDED, expand=False))
        if closing:
            console.print(closing, soft_wrap=True)
