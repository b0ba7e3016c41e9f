"""`jaxnets list`: the shipped configurations, each with its task, model, data and score. Starts no JAX.

Files in `./configs` are named but not run: listing a folder must not run its code.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from jaxnets.cli import fast_parse
from jaxnets.core.errors import UsageError
from jaxnets.report.tables import fitting

COLUMNS = ("configuration", "task", "model", "data", "parameters", "reaches", "takes")
# On a narrow terminal the model, which task and name hint at, and the time are left out.
NARROW = ("configuration", "task", "data", "parameters", "reaches")


def run(arguments: Sequence[str]) -> int:
    """Print the table; configurations that were not read are named below it."""
    if arguments:
        raise UsageError(f"`jaxnets list` takes no arguments, got {' '.join(arguments)}")
    console = Console()
    rows, broken = _configurations()
    console.print(fitting(console, [_table(rows, columns) for columns in (COLUMNS, NARROW)]))
    for line in broken:
        console.print(line, highlight=False, markup=False)
    return 0


def _table(rows: list[dict[str, str]], columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(
            column,
            justify="right" if column == "parameters" else "left",
            no_wrap=True,
            overflow="ellipsis" if column in ("task", "model", "data") else "fold",
        )
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table


def _configurations() -> tuple[list[dict[str, str]], list[str]]:
    """Cells by column, and lines about configurations that are not in the table."""
    rows, broken = [], []
    with fast_parse.stand_ins():
        from jaxnets import config
        from jaxnets.config.find import nearby, shipped

        for name in shipped():
            try:
                loaded = config.load(name)
            except UsageError as error:
                broken.append(f"{name} cannot be read: {error}")
                continue
            task, expected = loaded.experiment.task, loaded.expected
            rows.append(
                {
                    "configuration": name,
                    "task": type(task).__name__,
                    "model": type(task.model).__name__,
                    "data": type(loaded.experiment.data).__name__,
                    "parameters": f"{loaded.parameters:,}" if loaded.parameters else "",
                    "reaches": str(expected) if expected else "not run",
                    "takes": f"{expected.minutes:g} min, {expected.hardware}" if expected else "",
                }
            )
        others = list(nearby())
    if others:
        broken.append(f"in ./configs, not read: {', '.join(others[:20])}{', ...' if len(others) > 20 else ''}")
    return rows, broken
