"""A report of checks on the console, and as one page that needs no other file."""

import base64
import contextlib
import html
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxnets.core import streams
from jaxnets.core.errors import RunDirectoryError
from jaxnets.core.files import replacing
from jaxnets.core.types import Lines
from jaxnets.preflight.finding import COLOURS, TINTS, CheckReport, Finding
from jaxnets.report import plots
from jaxnets.report.page import STYLE

STYLES = {"red": "bold red", "amber": "yellow", "green": "green", "skipped": "dim"}
# On narrower terminals a table would leave no room for sentences.
LEAST_FOR_A_TABLE = 90


@contextlib.contextmanager
def progress_line(kind: str, doing: str = "checking") -> Iterator[Callable[[str], None]]:
    """What shows the check, or another thing, that is being made: a line that is written over on a terminal, else nothing."""
    if kind == "none" or not streams.is_terminal(sys.stderr):
        yield lambda text: None
        return
    from rich.console import Console

    with Console(file=streams.tolerant(sys.stderr)).status(doing) as status:
        yield lambda text: status.update(f"{doing}: {text}")


def print_report(report: CheckReport) -> None:
    """The findings as a table, in the order of the checks; as lines on a narrow terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, file=streams.tolerant(sys.stdout))
    if not console.is_terminal:
        console.width = max(console.width, 140)
    if console.width < LEAST_FOR_A_TABLE:
        for one in report.findings:
            console.print(Text(f"{one.colour}: {one.title}. {one.text}", style=STYLES[one.colour]), soft_wrap=True)
    else:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("", no_wrap=True)
        table.add_column("check", no_wrap=True)
        table.add_column("what was found", overflow="fold")
        for one in report.findings:
            said = Text(one.sentence)
            if one.remedy:
                said.append(f"\n{one.remedy}", style="italic")
            table.add_row(Text(one.colour, style=STYLES[one.colour]), Text(one.title), said)
        console.print(table)
    console.print(Text(report.summary), soft_wrap=True)


def write_page(report: CheckReport, path: Path) -> Path:
    """Write the findings and their figures as one HTML page.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(page(report).encode(errors="backslashreplace"))
    except OSError as error:
        raise RunDirectoryError(f"cannot write the report of the checks to {path} ({error})") from error
    return path


def page(report: CheckReport) -> str:
    """The page as text."""
    cards = "".join(
        f"<div class='card'><b style='color:{TINTS[colour]}'>{len(report.of(colour))}</b><span>{colour}</span></div>"
        for colour in COLOURS
    )
    worst = [one for colour in COLOURS[:2] for one in report.of(colour)]
    first = "".join(_section(one) for one in worst)
    rows = "".join(
        f"<tr><td><b style='color:{TINTS[one.colour]}'>{one.colour}</b></td><td>{html.escape(one.title)}</td>"
        f"<td>{html.escape(one.sentence)}</td><td>{one.seconds:.1f} s</td></tr>"
        for one in report.findings
    )
    drawn = "".join(_figure(one) for one in report.findings if one not in worst)
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Checks: {html.escape(report.title)}</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{STYLE}</style></head><body>"
        f"<h1>Before the run: {html.escape(report.title)}</h1><p class='sub'>{len(report.findings)} checks in "
        f"{report.seconds:.1f} s</p><div class='cards'>{cards}</div>{first}"
        f"<section><h2>All checks</h2><div class='scroll'><table><tr><th>result</th><th>check</th><th>what was found</th>"
        f"<th>time</th></tr>{rows}</table></div></section><div class='two'>{drawn}</div></body></html>\n"
    )


def _section(finding: Finding) -> str:
    """A finding that is not green, with its remedy and figure."""
    return (
        f"<section><h2><span style='color:{TINTS[finding.colour]}'>{finding.colour}</span>: {html.escape(finding.title)}</h2>"
        f"<p>{html.escape(finding.sentence)}<br><b>{html.escape(finding.remedy)}</b></p>{_figure(finding)}</section>"
    )


def _figure(finding: Finding) -> str:
    if not isinstance(finding.figure, Lines):
        return ""
    png = base64.b64encode(plots.to_png(plots.lines(finding.figure))).decode()
    title = html.escape(finding.figure.title)
    return f"<figure><figcaption>{title}</figcaption><img alt='{title}' src='data:image/png;base64,{png}'></figure>"
