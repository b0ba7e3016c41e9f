"""The plot of an error over a size: training and held-out examples, bias and variance. Plain data in, a figure out."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnets.report.plots import INK, TEST, TRAIN, VALIDATION, _figure, _plainly

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIANCE = "#009e73"
# Numbers over more than this factor are drawn on a logarithmic axis.
LOGARITHMIC = 8.0
# Names of points closer than this share of the axis to one that is named are left out; both ends are named.
CLOSEST = 0.1


@_plainly
def error_over_size(
    places: Sequence[float],
    names: Sequence[str],
    label: str,
    *,
    metric: str,
    split: str,
    training: Sequence[Sequence[float]],
    held_out: Sequence[Sequence[float]],
    halves: Sequence[float],
    parts: Sequence[tuple[float, float] | None],
    error: str,
    law: Callable[[float], float] | None = None,
) -> "Figure":
    """One panel of the metric, a dot for each run, its mean with its interval; beside it the squared error and its parts.

    Args:
        places: of the points on the axis.
        names: of the points, as the axis shows them.
        label: of the axis.
        metric: what was measured.
        split: on which held-out examples.
        training: for each point the metric of each run on its training examples.
        held_out: for each point the metric of each run on the held-out ones.
        halves: for each point half of the width of the interval of their mean; NaN for none.
        parts: for each point squared bias and variance; None where there are none.
        error: what they are the parts of.
        law: a function of the place, drawn over all of them.
    """
    both = any(parts)
    figure = _figure(6.4 if both else 3.8, 3.2)
    panels = figure.subplots(1, 2 if both else 1, squeeze=False)[0]
    order = np.argsort(places)
    x = np.asarray(places, float)[order]
    axis = panels[0]
    for runs, colour, name in ((training, TRAIN, "training"), (held_out, TEST, split)):
        rows = [runs[number] for number in order.tolist()]
        means = np.array([np.mean(row) if len(row) else math.nan for row in rows])
        for place, row in zip(x, rows, strict=True):
            axis.plot([place] * len(row), row, ".", ms=3, color=colour, alpha=0.45)
        axis.plot(x, means, "-o", ms=3.5, lw=1.6, color=colour, label=name)
        if name == split:
            reach = np.nan_to_num(np.asarray(halves, float)[order])
            axis.fill_between(x, means - reach, means + reach, color=colour, alpha=0.16, lw=0)
    if law is not None:
        dense = np.geomspace(x[0], x[-1], 100) if x[0] > 0 else np.linspace(x[0], x[-1], 100)
        axis.plot(dense, [law(float(place)) for place in dense], "--", color=INK, lw=1.2, label="law")
    _finished(axis, metric, x, [names[number] for number in order.tolist()])
    if both:
        axis = panels[1]
        found = np.array([parts[number] or (math.nan, math.nan) for number in order.tolist()])
        for values, colour, name, style in (
            (found.sum(axis=1), TEST, "sum", "-"),
            (found[:, 0], VALIDATION, "bias² and noise", "--"),
            (found[:, 1], VARIANCE, "variance", "-."),
        ):
            axis.plot(x, values, style, marker="o", ms=3.5, lw=1.6, color=colour, label=name)
        axis.set_ylim(min(0.0, np.nanmin(found)), 1.15 * np.nanmax(found.sum(axis=1)))  # with room for the legend
        _finished(axis, f"{split} {error}", x, [names[number] for number in order.tolist()])
    figure.supxlabel(label, fontsize=10)
    return figure


def _finished(axis: Any, title: str, x: np.ndarray, names: Sequence[str]) -> None:
    """Ticks, title and legend of a panel."""
    logarithmic = x[0] > 0 and x[-1] / x[0] >= LOGARITHMIC
    if logarithmic:
        axis.set_xscale("log")
    scaled = np.log(x) if logarithmic else x
    shares = (scaled - scaled[0]) / ((scaled[-1] - scaled[0]) or 1.0)
    ticks = [0]
    for number in range(1, len(x)):
        if shares[number] - shares[ticks[-1]] >= CLOSEST and (number == len(x) - 1 or 1 - shares[number] >= CLOSEST):
            ticks.append(number)
    axis.set_xticks([], minor=True)
    axis.set_xticks(x[ticks], [names[number] for number in ticks])
    axis.set_title(title, fontsize=11, color=INK, loc="left")
    axis.tick_params(labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, lw=0.6)
    axis.legend(fontsize=9, frameon=False)
