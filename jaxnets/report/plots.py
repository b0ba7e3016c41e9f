"""Plots with matplotlib. Each function takes plain data and returns a `Figure` without pyplot's global state."""

import contextlib
import functools
import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnets.core.errors import note
from jaxnets.core.figures import shown_in_notebooks
from jaxnets.core.types import AttentionMap, ConfusionMatrix, Lines, Scatter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxnets.report.history import History

TRAIN, VALIDATION, TEST, INK = "#7a8ba3", "#2563eb", "#c2410c", "#1f2937"
# Colours of the curves of several runs in one panel, after the colour-blind safe palette of Okabe and Ito (2008).
OVERLAID = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#9a8c00")


def _matplotlib() -> Any:
    """Import matplotlib, even if `MPLBACKEND` names a back end that does not exist: no back end is used here."""
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    wanted = os.environ.pop("MPLBACKEND", None)  # an unknown back end would make the import fail
    try:
        import matplotlib
    finally:
        if wanted is not None:
            os.environ["MPLBACKEND"] = wanted
    if wanted:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = wanted
    return matplotlib


@contextlib.contextmanager
def _plain_style() -> Iterator[None]:
    """A context with matplotlib's default style, the same on every machine, and without `$` formulas in names."""
    matplotlib = _matplotlib()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False
        yield


def _plainly(draw: Callable[..., "Figure"]) -> Callable[..., "Figure"]:
    """A decorator: draw in the plain style."""

    @functools.wraps(draw)
    def drawn(*arguments: Any, **options: Any) -> "Figure":
        with _plain_style():
            return draw(*arguments, **options)

    return drawn


def to_png(figure: "Figure", *, dpi: int = 130) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as heard, _plain_style():
        warnings.simplefilter("always")
        figure.savefig(buffer, format="png", dpi=dpi)
    glyphs = [one for one in heard if "missing from" in str(one.message)]
    if glyphs:
        note(f"the fonts for plots lack {len(glyphs)} characters of your names; the plots show empty boxes for them")
    for one in heard:
        if one not in glyphs:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return buffer.getvalue()


def _figure(width: float, height: float) -> "Figure":
    # Not pyplot: it keeps every figure open and needs a display.
    return shown_in_notebooks(to_png)(figsize=(width, height), layout="constrained")


@_plainly
def overlaid(histories: "Mapping[str, History]") -> "Figure":
    """One panel per metric with a colour for each run: the held-out split in full, training dotted and thin.

    Args:
        histories: of the runs, by the name to show.
    """
    names = sorted({name for h in histories.values() for name in h.metrics()}, key=lambda n: (n != "loss", n)) or [
        "loss"
    ]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = _figure(4.2 * columns, 2.9 * rows + 0.3)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    shown: dict[str, Any] = {}
    for axis, name in zip(axes, names, strict=False):
        for number, (run, history) in enumerate(histories.items()):
            colour = OVERLAID[number % len(OVERLAID)]
            held = "validation" if history.last("validation") else "test"
            for split, style, width in (("train", ":", 1.0), (held, "-", 1.7)):
                steps, values = history.series(name, split)
                if steps:
                    numbers = [value if math.isfinite(value) else math.nan for value in values]
                    marker = _marker(split, len(steps))
                    (line,) = axis.plot(steps, numbers, style, color=colour, lw=width, marker=marker, ms=3)
                    shown[run] = line if split != "train" else shown.get(run, line)
        axis.set_title(name.replace("_", " "), fontsize=11, color=INK, loc="left")
        axis.set_xlabel("step", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, lw=0.6)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    figure.legend(list(shown.values()), list(shown), loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return figure


@_plainly
def curves(history: "History") -> "Figure":
    """One panel per metric: training in grey, validation in blue, test in orange, with the last test value as text."""
    names = history.metrics() or ["loss"]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = _figure(4.2 * columns, 2.9 * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, name in zip(axes, names, strict=False):
        _draw_curve(axis, history, name)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    return figure


@_plainly
def curve(history: "History", name: str) -> "Figure":
    """The panel of one metric; see `curves`."""
    figure = _figure(4.6, 3.1)
    _draw_curve(figure.subplots(), history, name)
    return figure


def number_text(value: float, *, whole: bool = False) -> str:
    """Four digits, and large numbers without an exponent."""
    return f"{value:,.0f}" if whole or 1e4 <= abs(value) < 1e13 else f"{value:.4g}"


def _short_ticks(axis: Any, *which: str) -> None:
    """Numbers of 10,000 and more at an axis as 20k, 3.1M, 2B."""
    from matplotlib.ticker import FuncFormatter

    def text(value: float, _: Any) -> str:
        for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= size:
                return f"{value / size:.4g}{letter}"
        return f"{value:.4g}"

    for name in which:
        high = max(map(abs, getattr(axis, f"get_{name}lim")()))
        if 1e4 <= high < 1e13:
            getattr(axis, f"{name}axis").set_major_formatter(FuncFormatter(text))


def _marker(split: str, points: int) -> str | None:
    """Few points are drawn as points too: evaluations, and one point, which has no line."""
    return "o" if points == 1 or (split != "train" and points < 40) else None


def _draw_curve(axis: Any, history: "History", name: str) -> None:
    """The curves of one metric; a loss over more than a decade has a logarithmic axis."""
    drawn: list[float] = []
    for split, colour in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        steps, values = history.series(name, split)
        if not steps:
            continue
        end, values = values[-1], [value if math.isfinite(value) else math.nan for value in values]
        seen = [index for index, value in enumerate(values) if math.isfinite(value)]
        drawn += [values[index] for index in seen]
        marker = _marker(split, len(steps))
        axis.plot(steps, values, color=colour, label=split, lw=1.6, marker=marker, ms=3.5)
        if split == "test" and seen:
            # Write the last test value at the last finite point.
            axis.annotate(
                number_text(end),
                (steps[seen[-1]], values[seen[-1]]),
                xytext=(-4, 7),
                ha="right",
                textcoords="offset points",
                color=colour,
                fontsize=9,
            )
    if "loss" in name and drawn and min(drawn) > 0 and max(drawn) > 10 * min(drawn):
        from matplotlib.ticker import FuncFormatter, NullFormatter

        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # no formulas: see `_plain_style`
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        _short_ticks(axis, "y")
    _short_ticks(axis, "x")
    axis.set_title(name.replace("_", " "), fontsize=11, color=INK, loc="left")
    axis.set_xlabel("step", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, lw=0.6)
    handles, labels = axis.get_legend_handles_labels()
    if len(labels) > 1:
        axis.legend(handles, labels, frameon=False, fontsize=8)


@_plainly
def confusion_matrix(exhibit: ConfusionMatrix) -> "Figure":
    """A grid of counts, coloured by the share of the true class; correct predictions are on the diagonal."""
    counts = exhibit.counts
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = float(np.clip(0.42 * len(counts) + 1.2, 3.2, 9))
    figure = _figure(size, size)
    axis = figure.subplots()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(counts) <= 20:
        for row, column in np.argwhere(counts > 0):
            colour = "white" if share[row, column] > 0.5 else INK
            weight = "bold" if row == column else "normal"
            axis.text(
                column,
                row,
                str(counts[row, column]),
                ha="center",
                va="center",
                color=colour,
                fontsize=9,
                fontweight=weight,
            )
    ticks = range(len(counts))
    turn = 45 if max(map(len, exhibit.names)) > 2 else 0
    axis.set_xticks(ticks, exhibit.names, fontsize=8, rotation=turn, ha="right" if turn else "center")
    axis.set_yticks(ticks, exhibit.names, fontsize=8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.spines[:].set_visible(False)
    return figure


@_plainly
def attention(exhibit: AttentionMap) -> "Figure":
    """A grid of weights for each head, two in a row: each row attends to the columns."""
    heads = len(exhibit.weights)
    columns = min(2, heads)
    figure = _figure(3.6 * columns + 0.4, 3.5 * -(-heads // columns))
    axes = list(figure.subplots(-(-heads // columns), columns, squeeze=False).flat)
    for head, axis in enumerate(axes):
        axis.set_visible(head < heads)
        if head < heads:
            image = axis.imshow(exhibit.weights[head], cmap="Blues", vmin=0, vmax=float(exhibit.weights.max()))
            axis.set_title(f"head {head + 1}", fontsize=11, color=INK, loc="left")
            axis.spines[:].set_visible(False)
            for set_ticks, names, turn in ((axis.set_xticks, exhibit.columns, 90), (axis.set_yticks, exhibit.rows, 0)):
                shown = range(0, len(names), -(-len(names) // 20))
                set_ticks(shown, [names[i] for i in shown], fontsize=10, rotation=turn)
    figure.colorbar(image, ax=axes, shrink=0.5).ax.tick_params(labelsize=9)
    figure.supxlabel("looked at", fontsize=10, color=INK)
    return figure


@_plainly
def lines(exhibit: Lines) -> "Figure":
    """Panels of curves, two in a row; the last curve of each panel is orange."""
    count = len(exhibit.curves)
    columns = min(2, count)
    rows = -(-count // columns)
    figure = _figure(5.2 * columns, 2.4 * rows + 0.4)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    colours = (TRAIN, INK, "#4d7c0f", "#6d28d9")
    for axis, curves, caption in zip(axes, exhibit.curves, exhibit.captions, strict=False):
        for index, (values, name) in enumerate(zip(curves, exhibit.names, strict=True)):
            last = index == len(exhibit.names) - 1
            axis.plot(exhibit.x, values, lw=1.5, label=name, color=TEST if last else colours[index % len(colours)])
        axis.set_title(caption, fontsize=9, color=INK, loc="left")
        axis.set_xlabel(exhibit.x_label, fontsize=8)
        axis.set_ylabel(exhibit.y_label, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, lw=0.6)
    axes[0].legend(frameon=False, fontsize=8)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure


@_plainly
def scatter(exhibit: Scatter) -> "Figure":
    """A scatter plot with the line that the points would lie on."""
    figure = _figure(5, 5)
    axis = figure.subplots()
    axis.plot(exhibit.x, exhibit.y, ".", ms=3, alpha=0.35, color=TEST, rasterized=True)
    both = np.concatenate([np.ravel(exhibit.x), np.ravel(exhibit.y)])
    both = both[np.isfinite(both)]
    if len(both) and exhibit.line == "diagonal":
        axis.plot([both.min(), both.max()], [both.min(), both.max()], color=INK, lw=1)
    elif exhibit.line == "zero":
        axis.axhline(0.0, color=INK, lw=1)
    _short_ticks(axis, "x", "y")
    axis.set_xlabel(exhibit.x_label)
    axis.set_ylabel(exhibit.y_label)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
