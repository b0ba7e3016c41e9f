"""The report: one self-contained HTML page with embedded plots, readable offline.

The plots are also saved in `plots/` as PNG files.
"""

import base64
import csv
import dataclasses
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnets.core.errors import RunDirectoryError
from jaxnets.core.files import replacing
from jaxnets.core.flatten import flatten
from jaxnets.core.types import AttentionMap, ConfusionMatrix, Exhibit, Gallery, HeatMap, Lines, Scatter, Table
from jaxnets.report import images, instrument_plots, plots
from jaxnets.report.history import HEALTH, History

# File name of the page in a run directory.
PAGE = "report.html"
# Names of devices on Windows, which are reserved with any file extension.
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
STYLE = """
:root { color-scheme: light; --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --accent: #c2410c; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 1000px; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.4rem 0 .6rem; }
h1, h2, .sub { overflow-wrap: anywhere; }
.sub { color: var(--soft); margin: .2rem 0 1.6rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; }
.card { border: 1px solid var(--line); border-radius: 10px; padding: .7rem 1.1rem; min-width: 7.5rem; }
.card b { display: block; font-size: 1.45rem; font-weight: 600; } .card span { color: var(--soft); font-size: .85rem; }
.card.head b { color: var(--accent); }
figure { margin: 0; } img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .88rem; } td, th { text-align: left; padding: .22rem 1.1rem .22rem 0;
border-bottom: 1px solid var(--line); vertical-align: top; }
td { white-space: pre-wrap; } th { color: var(--soft); font-weight: 500; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 0 2.2rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: .6rem 1rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--least)), 1fr)); gap: .8rem; }
.gallery figure { max-width: 340px; } .gallery img { width: 100%; display: block; } .pixelated { image-rendering: pixelated; }
figcaption { font-size: .8rem; line-height: 1.3; color: var(--soft); white-space: pre-line; margin-top: .2rem; }
.scroll { overflow-x: auto; } h2 a { font-size: .8rem; font-weight: 400; color: var(--soft); margin-left: .6rem; }
@media (prefers-color-scheme: dark) {
:root { color-scheme: dark; --ink: #e5e7eb; --soft: #9ca3af; --line: #374151; --accent: #fb923c; }
body { background: #111827; } .chart { filter: invert(.93) hue-rotate(180deg) brightness(1.2); border-radius: 8px; } }
@media (max-width: 500px) { body { margin: 1rem auto; padding: 0 .8rem; } .card { min-width: 5.5rem; padding: .5rem .8rem; } }
code { font: .85em ui-monospace, monospace; overflow-wrap: anywhere; }
details { margin-top: 2rem; } summary { cursor: pointer; color: var(--soft); }
"""
# Digits of a setting on the page; the saved configuration has all.
DIGITS = 6


@dataclasses.dataclass(frozen=True)
class ReportData:
    """The content of a report, as plain data."""

    title: str
    subtitle: str
    headline: str
    """Name of the metric to show first."""
    history: History
    final: Mapping[str, float]
    """Final numbers on the test split."""
    facts: Mapping[str, str]
    """Short facts for the cards, e.g. time, parameters, speed."""
    exhibits: Sequence[Exhibit]
    config: Mapping[str, Any]
    """The settings that differ from their defaults, by dotted names."""
    defaults: Mapping[str, Any]
    """The settings at their defaults, likewise."""
    environment: Mapping[str, Any]
    expectation: str = ""
    """One sentence that compares the score with the expected one of the configuration."""


def write_report(directory: Path, data: ReportData) -> Path:
    """Write `report.html` and `plots/*.png` into a run directory; returns the path of the page."""
    drawn = []
    galleries: dict[str, Gallery] = {}
    for exhibit in data.exhibits:
        match exhibit:
            case AttentionMap():
                drawn.append((exhibit.title, plots.attention(exhibit)))
            case ConfusionMatrix():
                drawn.append((exhibit.title, plots.confusion_matrix(exhibit)))
            case Gallery() if len(exhibit.images):
                drawn.append((exhibit.title, images.gallery(exhibit)))
                galleries[exhibit.title] = exhibit
            case HeatMap():
                drawn.append((exhibit.title, instrument_plots.heat_map(exhibit)))
            case Lines() if len(exhibit.curves):
                drawn.append((exhibit.title, plots.lines(exhibit)))
            case Scatter():
                drawn.append((exhibit.title, plots.scatter(exhibit)))
    try:
        folder = directory / "plots"
        folder.mkdir(exist_ok=True)
        figures, taken = [], {"curves"}
        (folder / "curves.png").write_bytes(plots.to_png(plots.curves(data.history)))
        panels = [(name, plots.to_png(plots.curve(data.history, name))) for name in _moving(data.history)]
        for title, figure in drawn:
            png = plots.to_png(figure)
            (folder / f"{_slug(title, taken)}.png").write_bytes(png)
            figures.append((title, _gallery(galleries[title]) if title in galleries else _chart(title, png)))
        page = directory / PAGE
        with replacing(page) as file:
            file.write(_page(data, panels, figures).encode(errors="backslashreplace"))
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write the report in {directory} ({error}); the trained weights are saved. Free some space and run the "
            f"same command again: it will only write the report"
        ) from error
    return page


def _page(data: ReportData, panels: Sequence[tuple[str, bytes]], exhibits: Sequence[tuple[str, str]]) -> str:
    cards = [_card(name, value, "head" if name == f"test {data.headline}" else "") for name, value in _ordered(data)]
    cards += [_card(name, value, "") for name, value in data.facts.items()]
    log = _csv_link("metrics", ("step", "split", *data.history.metrics()), _log_rows(data.history))
    figures = (
        f"<section><h2>Curves{log}</h2><div class='panels'>{''.join(_chart(*one) for one in panels)}</div></section>"
    )
    figures += "".join(f"<section><h2>{html.escape(title)}</h2>{figure}</section>" for title, figure in exhibits)
    tables = "".join(_table(exhibit) for exhibit in data.exhibits if isinstance(exhibit, Table))
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(data.title)}</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{STYLE}</style></head><body>"
        f"<h1>{html.escape(data.title)}</h1><p class='sub'>{html.escape(data.subtitle)}</p>"
        f"<div class='cards'>{''.join(cards)}</div><p>{html.escape(data.expectation)}</p>{figures}{tables}"
        f"<div class='two'><section><h2>Settings that were chosen</h2>{_pairs(flatten(rounded(data.config)))}"
        f"<details><summary>{len(data.defaults)} settings that have their defaults</summary>"
        f"{_pairs(flatten(rounded(data.defaults)))}</details></section>"
        f"<section><h2>Environment</h2>{_pairs(flatten(data.environment))}</section></div></body></html>\n"
    )


def _moving(history: History) -> list[str]:
    """The metrics with a curve: those with values at two steps or more. The others are a number on a card."""
    splits = ("train", "validation", "test")
    found = [
        name for name in history.metrics() if len({s for split in splits for s in history.series(name, split)[0]}) > 1
    ]
    return found or history.metrics()[:1]


def _chart(title: str, png: bytes) -> str:
    return f"<figure>{_image(title, png, 'chart')}</figure>"


def _image(title: str, png: bytes, kind: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f"<img class='{kind}' alt='{html.escape(title)}' src='{source}'>"


def _gallery(gallery: Gallery) -> str:
    """Each image by itself with its caption as text, so that both can be read on a narrow screen; few images are larger."""
    kind = "pixelated" if max(gallery.images.shape[1:3]) <= images.LARGEST // 2 else "picture"
    figures = "".join(
        f"<figure>{_image(caption or gallery.title, images.pixels(image), kind)}<figcaption>{html.escape(caption)}"
        f"</figcaption></figure>"
        for image, caption in zip(gallery.images, gallery.captions, strict=False)
    )
    least = 84 if len(gallery.images) > 8 else 150 if len(gallery.images) > 2 else 300
    return f"<div class='gallery' style='--least: {least}px'>{figures}</div>"


def _csv_link(name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A link that saves a table as a CSV file; the file is in the link."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    content = base64.b64encode(text.getvalue().encode(errors="backslashreplace")).decode()
    return f"<a download='{_slug(name, set())}.csv' href='data:text/csv;base64,{content}'>CSV</a>"


def _log_rows(history: History) -> list[list[Any]]:
    names = history.metrics()
    shown = [record for record in history.records if record["split"] != HEALTH]
    return [[r["step"], r["split"], *(r.get(name, "") for name in names)] for r in shown]


def _ordered(data: ReportData) -> list[tuple[str, str]]:
    names = sorted(data.final, key=lambda name: (name != data.headline, name == "examples"))
    return [(f"test {name}", plots.number_text(data.final[name], whole=name == "examples")) for name in names]


def _card(name: str, value: str, kind: str) -> str:
    label = name.replace("_", " ")
    return f"<div class='card {kind}'><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    link = _csv_link(table.title, table.header, table.rows)
    return (
        f"<section><h2>{html.escape(table.title)}{link}</h2><div class='scroll'><table><tr>{head}</tr>{rows}</table></div>"
        f"</section>"
    )


def _pairs(data: Mapping[str, Any]) -> str:
    rows = (
        f"<tr><th>{html.escape(name)}</th><td><code>{html.escape(str(v)) or 'none'}</code></td></tr>"
        for name, v in data.items()
    )
    return f"<div class='scroll'><table>{''.join(rows)}</table></div>"


def rounded(value: Any) -> Any:
    """Settings with every number that has more than `DIGITS` digits rounded to so many; whole numbers stay as they are."""
    if isinstance(value, Mapping):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) and not value.is_integer() else value


def _slug(title: str, taken: set[str]) -> str:
    """A portable file name for a plot from the words of its title; not in `taken`, and added to it."""
    words = title.split(":")[0].split("(")[0].lower().split()
    name = "_".join(filter(None, ("".join(c for c in word if c.isalnum()) for word in words)))[:80] or "plot"
    if name in RESERVED:
        name += "_plot"
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free
