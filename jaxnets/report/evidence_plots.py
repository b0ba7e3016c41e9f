"""Plots of comparisons over seeds and of sweeps. Plain data in, figures out."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnets.report.plots import INK, TEST, TRAIN, VALIDATION, _figure, _plainly

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Numbers over more than this factor are drawn on a logarithmic axis.
LOGARITHMIC = 20.0


@_plainly
def paired_dots(
    first: Sequence[float], second: Sequence[float], what: str, *, mean: float, half: float, says: str
) -> "Figure":
    """Scores of A and B with a line for each seed, and beside them the differences with their mean and interval.

    Args:
        first: A's scores.
        second: B's, in the same order.
        what: label of the scores.
        mean: of B - A.
        half: half of the width of its interval; NaN for none.
        says: better, worse or unclear.
    """
    figure = _figure(6.2, 3.4)
    scores, differences = figure.subplots(1, 2, width_ratios=(3, 2))
    for pair in zip(first, second, strict=True):
        scores.plot((0, 1), pair, "-", color=TRAIN, lw=0.9, alpha=0.7, zorder=1)
    for place, values, colour in ((0, first, VALIDATION), (1, second, TEST)):
        scores.plot([place] * len(values), values, "o", ms=5, color=colour, alpha=0.85)
    scores.set_xticks((0, 1), ("A", "B"))
    scores.set_xlim(-0.35, 1.35)
    _plain(scores, what)
    each = np.subtract(second, first)
    differences.axhline(0, color=INK, lw=0.8, ls=":")
    differences.plot(np.linspace(-0.25, -0.1, len(each)), each, "o", ms=4, color=TRAIN, alpha=0.8)
    error = half if math.isfinite(half) else 0.0
    differences.errorbar(0.2, mean, yerr=error, fmt="D", ms=6, color=INK, capsize=5, lw=1.6)
    differences.set_xlim(-0.5, 0.6)
    differences.set_xticks(())
    _plain(differences, f"B - A: {says}")
    return figure


@_plainly
def parallel_coordinates(
    names: Sequence[str], rows: Sequence[tuple[Sequence[Any], float]], metric: str, *, better: str
) -> "Figure":
    """An axis for each field and one for the score, a line for each run, the best ones dark.

    Args:
        names: of the fields.
        rows: for each run its values (numbers or texts) and its score, which is finite.
        metric: label of the score.
        better: max or min.
    """
    figure = _figure(2.0 + 1.9 * len(names), 3.8)
    axis = figure.subplots()
    columns = [[values[number] for values, _ in rows] for number in range(len(names))]
    heights = [_axis(axis, place, column) for place, column in enumerate(columns)]
    scores = [score for _, score in rows]
    heights.append(_axis(axis, len(names), scores, numbers=True))
    quality = np.asarray(heights[-1]) if better == "max" else 1 - np.asarray(heights[-1])
    order = np.argsort(quality, kind="stable")
    colours = figure_colours(quality)
    for number in order.tolist():  # the best ones last, on top
        line = [column[number] for column in heights]
        best = number == order[-1]
        axis.plot(range(len(line)), line, color=colours[number], lw=2.2 if best else 1.1, alpha=1.0 if best else 0.75)
    axis.set_xticks(range(len(names) + 1), [*(_folded(name) for name in names), _folded(metric)], fontsize=8)
    axis.set_xlim(-0.25, len(names) + 0.35)
    axis.set_ylim(-0.06, 1.06)
    axis.set_yticks(())
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axis.tick_params(length=0)
    return figure


def figure_colours(quality: np.ndarray) -> list[tuple[float, float, float]]:
    """From grey for the worst to blue for the best, by rank."""
    ranks = quality.argsort(kind="stable").argsort(kind="stable") / max(1, len(quality) - 1)
    grey, blue = np.array([0.80, 0.83, 0.87]), np.array([0.145, 0.388, 0.922])
    return [tuple(grey + (blue - grey) * float(rank) ** 2) for rank in ranks]


def _axis(axis: Any, place: int, values: Sequence[Any], *, numbers: bool = False) -> list[float]:
    """Draw one vertical axis and give the heights of the values on it, in [0, 1]."""
    axis.axvline(place, color=INK, lw=0.9, zorder=0)
    plain = numbers or all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not plain:
        kinds = list(dict.fromkeys(map(str, values)))
        at = {kind: number / max(1, len(kinds) - 1) for number, kind in enumerate(kinds)}
        for kind, height in at.items():
            _label(axis, place, height, kind)
        return [at[str(value)] for value in values]
    low, high = float(min(values)), float(max(values))
    logarithmic = not numbers and low > 0 and high / low >= LOGARITHMIC
    scaled = np.log(np.asarray(values, float)) if logarithmic else np.asarray(values, float)
    reach = float(np.ptp(scaled)) or 1.0
    found = ((scaled - scaled.min()) / reach).tolist() if high > low else [0.5] * len(values)
    marks = sorted(set(zip(values, found, strict=True)))
    few = len(marks) <= 6 and not numbers
    ends = [marks[0], marks[-1]] if high > low else marks[:1]
    for value, height in marks if few else ends:
        _label(axis, place, height, f"{value:.4g}")
    return list(found)


def _label(axis: Any, place: int, height: float, text: str) -> None:
    axis.plot(place, height, "_", color=INK, ms=6, zorder=0)
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    axis.text(place + 0.04, height, text, fontsize=7.5, color=INK, va="center", zorder=5, bbox=box)


def _folded(name: str) -> str:
    """A dotted name over lines."""
    return name.replace(".", ".\n").replace(" ", "\n")


def _plain(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=10, color=INK, loc="left")
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, lw=0.6, axis="y")
