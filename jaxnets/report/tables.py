"""Console tables that fit the terminal, so that no number is cut."""

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def fitting(console: Console, tables: Sequence[Table]) -> Table:
    """The first table (given widest first) that fits the terminal, else the last; files and pipes have no width limit."""
    endless = console.options.update(max_width=10_000)
    widths = [Measurement.get(console, endless, table).maximum for table in tables]
    if not console.is_terminal:
        console.width = max(console.width, widths[0])
    room = console.width
    return next((table for table, width in zip(tables, widths, strict=True) if width <= room), tables[-1])


def as_text(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, most: int = 40) -> str:
    """A table as aligned lines of plain text, with at most `most` rows."""
    shown = [tuple(header), *(tuple(row) for row in rows[:most])]
    widths = [max(len(row[i]) for row in shown) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    left = [f"... and {len(rows) - most} more, in the report"] if len(rows) > most else []
    return "\n".join([title, *(f"  {line}" for line in [*lines, *left])])
