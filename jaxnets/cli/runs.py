"""`jaxnets runs` and `jaxnets compare`: many runs in a table, some side by side. They start no JAX."""

import dataclasses
import datetime
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxnets.cli import paired_runs
from jaxnets.cli.flags import parse
from jaxnets.core.errors import DataError, UsageError
from jaxnets.core.files import replacing, user_path
from jaxnets.core.flatten import flatten

# Metrics in the table of runs.
MOST_SCORES = 4


@dataclasses.dataclass(frozen=True)
class RunsOptions:
    """Options of `jaxnets runs`."""

    sort: str = ""
    """A field to sort by: a metric, name, state, step, or a field of the configuration; empty: the newest last."""
    reverse: bool = False
    """The largest first."""
    where: tuple[str, ...] = ()
    """Conditions, such as "accuracy>0.9" "task.model=CNN" "optimizer.learning_rate<=1e-3"."""
    columns: tuple[str, ...] = ()
    """Fields to show beside name, state and step; by default the model, the data and the metrics."""


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Options of `jaxnets compare`."""

    output: str = ""
    """A .png file for the curves of all runs in one plot."""


def run(arguments: Sequence[str]) -> int:
    """`jaxnets runs [DIR] [flags]`."""
    folder, flags = ("runs", arguments)
    if arguments and not arguments[0].startswith("-"):
        folder, flags = arguments[0], arguments[1:]
    options = parse(RunsOptions, flags, "jaxnets runs DIR")
    from jaxnets.runs import catalog

    found = catalog.find(folder)
    if not found:
        print(f"no runs in {folder}")
        return 0
    entries = sorted(catalog.matching(found, options.where), key=lambda entry: entry.modified)
    if options.sort:
        entries = catalog.ordered(entries, options.sort, reverse=options.reverse)
    elif options.reverse:
        entries.reverse()
    for column in options.columns:
        catalog.check_field(found, column)
    columns = list(options.columns) or ["model", "data", *_scores(entries)]
    header = ["run", "state", "step", *columns, "last written"]
    rows = [
        [entry.name, entry.state, _steps(entry), *(shown(entry.fields.get(name)) for name in columns), _when(entry)]
        for entry in entries
    ]
    print_table(header, rows)
    for entry in entries:
        if entry.trouble:
            print(f"{entry.name}: {entry.trouble}")
    left = f" of {len(found)}" if len(entries) < len(found) else ""
    print(f"{len(entries)}{left} runs in {folder}")
    return 0


def compare(arguments: Sequence[str]) -> int:
    """`jaxnets compare RUN RUN ... [--output FILE.png]`."""
    first_flag = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    paths, flags = list(arguments[:first_flag]), arguments[first_flag:]
    options = parse(CompareOptions, flags, "jaxnets compare RUN RUN ...")
    if len(paths) < 2:
        raise UsageError(
            "`jaxnets compare` takes two run directories or more; with --seeds it trains configurations and compares them"
        )
    if options.output and not options.output.endswith(".png"):
        raise UsageError(f"--output is a .png file, got {options.output!r}")
    from jaxnets.runs import catalog

    entries = [catalog.existing(path) for path in paths]
    for entry in entries:
        if entry.trouble:
            print(f"{entry.name}: {entry.trouble}")
    names = short_names([entry.name for entry in entries])
    rows = differing([flatten(entry.config) for entry in entries])
    print("settings that differ" if rows else "the settings are the same")
    if rows:
        print_table(["", *names], [[field, *map(shown, values)] for field, values in rows])
    scores = list(dict.fromkeys(name for entry in entries for name in entry.scores))
    table = [["state", *(entry.state for entry in entries)], ["step", *map(_steps, entries)]]
    table += [[name, *(shown(entry.scores.get(name)) for entry in entries)] for name in scores]
    print("results")
    print_table(["", *names], table)
    said, pairs = paired_runs.paired_rows(entries)
    if pairs:
        print("\n".join(said))
        print_table(paired_runs.HEADER, pairs)
    if options.output:
        from jaxnets.report.plots import overlaid, to_png

        figure = overlaid(dict(zip(names, (entry.history for entry in entries), strict=True)))
        try:
            with replacing(user_path(options.output)) as file:
                file.write(to_png(figure))
        except OSError as error:
            raise DataError(f"cannot write {options.output} ({error}); choose another place") from error
        print(f"curves in {options.output}")
    return 0


def differing(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """The fields whose values are not the same in all configurations, with the value in each (None if it has none)."""
    fields = sorted({name for config in configs for name in config})
    rows = [(name, [config.get(name) for config in configs]) for name in fields]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values[1:])]


def short_names(names: Sequence[str]) -> list[str]:
    """The last parts of paths, as many as are needed to distinguish them."""
    for parts in range(1, max((len(Path(name).parts) for name in names), default=1) + 1):
        short = ["/".join(Path(name).parts[-parts:]) for name in names]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


def shown(value: Any) -> str:
    """A value as a cell."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _scores(entries: Sequence[Any]) -> list[str]:
    """The metrics that most runs have, the loss last."""
    counts = Counter(name for entry in entries for name in entry.scores)
    most = [name for name, _ in counts.most_common(MOST_SCORES)]
    return sorted(most, key=lambda name: name == "loss")


def _steps(entry: Any) -> str:
    of = entry.config.get("steps")
    return f"{entry.step}" if of in (None, entry.step) else f"{entry.step} of {of}"


def _when(entry: Any) -> str:
    return datetime.datetime.fromtimestamp(entry.modified).strftime("%Y-%m-%d %H:%M")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; files and pipes get wide lines."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in header:
        table.add_column(escape(name), overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else 240).print(table)
