"""Plots of the instruments that choose a learning rate and a batch, and of the health of a run. Plain data in, figures out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnets.core.types import HeatMap
from jaxnets.report.plots import INK, OVERLAID, TEST, TRAIN, VALIDATION, _figure, _plainly

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@_plainly
def rate_test(
    rates: np.ndarray,
    losses: np.ndarray,
    smoothed: np.ndarray,
    *,
    pick: float | None,
    given: float | None = None,
    groups: Mapping[str, tuple[np.ndarray, np.ndarray, float | None]] | None = None,
    what: str = "learning rate",
) -> "Figure":
    """The loss over the learning rate: batches as points, smoothed repeats as lines, the pick and the given rate marked.

    Args:
        rates: `[T]`.
        losses: `[R, T]`.
        smoothed: `[R, T]`, NaN where the loss has exploded.
        pick: the rate to train with, if one was found.
        given: the rate of the configuration, if it says one.
        groups: for a second panel, by name: rates `[T]`, smoothed losses `[T]`, pick.
        what: label of the rates.
    """
    figure = _figure(6.2 if not groups else 11.5, 3.8)
    axes = list(figure.subplots(1, 2 if groups else 1, squeeze=False).flat)
    axis, drawn = axes[0], smoothed[np.isfinite(smoothed)]
    for number, (points, line) in enumerate(zip(losses, smoothed, strict=True)):
        axis.plot(rates, np.where(np.isfinite(line), points, np.nan), ".", ms=3, color=TRAIN, alpha=0.35)
        axis.plot(rates, line, color=VALIDATION, lw=1.6, alpha=0.85, label="loss, smoothed" if not number else None)
    _marked(axis, pick, TEST, "-", "pick")
    _marked(axis, given, INK, ":", "given")
    _rate_axis(axis, drawn, what, "all together" if groups else "")
    for number, (name, (own, line, best)) in enumerate((groups or {}).items()):
        colour = OVERLAID[number % len(OVERLAID)]
        axes[1].plot(own, line, color=colour, lw=1.6, label=name)
        if best is not None:
            axes[1].axvline(best, color=colour, lw=1, ls="--")
    if groups:
        lines = np.concatenate([line[np.isfinite(line)] for _, line, _ in groups.values()])
        _rate_axis(axes[1], lines, what, "each group alone (dashed: its pick)")
    return figure


def _marked(axis: Any, value: float | None, colour: str, style: str, name: str) -> None:
    if value is not None:
        axis.axvline(value, color=colour, lw=1.3, ls=style, label=f"{name} {value:.3g}")


def _rate_axis(axis: Any, drawn: np.ndarray, what: str, title: str) -> None:
    """Logarithmic rates; losses up to a little above where they began, so that the fall can be seen."""
    axis.set_xscale("log")
    _plain_numbers(axis.xaxis)
    if len(drawn):
        low, first = float(drawn.min()), float(drawn[0])
        room = max(first - low, 1e-3 * abs(first), 1e-12)
        axis.set_ylim(low - 0.12 * room, first + 0.6 * room)
    axis.set_xlabel(what, fontsize=9)
    axis.set_ylabel("loss of the batch", fontsize=9)
    _plain_axis(axis, title)
    axis.legend(frameon=False, fontsize=8, loc="lower left")


def _plain_numbers(axis: Any) -> None:
    """Plain numbers along a logarithmic axis: the plots' style draws no formulas."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _plain_axis(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=11, color=INK, loc="left")
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, lw=0.6)


@_plainly
def batch_sizes(
    memory: Mapping[int, int],
    line: tuple[float, float],
    limit: int,
    *,
    throughput: Mapping[int, float],
    critical: float | None = None,
) -> "Figure":
    """Memory over the batch, with the fitted line and the limit; beside it the speed, with the noise scale.

    Args:
        memory: bytes by batch size, as measured.
        line: bytes without any example, and for each.
        limit: bytes that there are.
        throughput: examples a second by batch size; {} for no second panel.
        critical: the gradient noise scale, in examples.
    """
    figure = _figure(5.2 if not throughput else 10, 3.6)
    axes = list(figure.subplots(1, 2 if throughput else 1, squeeze=False).flat)
    sizes = np.asarray(sorted(memory))
    across = np.geomspace(max(1, sizes[0] / 2), sizes[-1] * 1.3, 100)
    axes[0].plot(across, (line[0] + line[1] * across) / 2**30, color=TRAIN, lw=1.4, label="fitted line")
    axes[0].plot(sizes, [memory[size] / 2**30 for size in sizes], "o", color=VALIDATION, ms=5, label="by the compiler")
    axes[0].axhline(limit / 2**30, color=TEST, lw=1.3, ls="--", label=f"may be filled: {limit / 2**30:.3g} GiB")
    axes[0].set_ylabel("GiB of a device", fontsize=9)
    axes[0].set_yscale("log")
    _plain_numbers(axes[0].yaxis)
    _plain_axis(axes[0], "memory")
    if throughput:
        fast = sorted(throughput)
        axes[1].plot(fast, [throughput[size] for size in fast], "o-", color=VALIDATION, ms=5, lw=1.6)
        axes[1].axhline(0.9 * max(throughput.values()), color=TRAIN, lw=1, ls=":", label="90 % of the best")
        if critical is not None:
            axes[1].axvline(critical, color=TEST, lw=1.3, ls="--", label=f"gradient noise scale {critical:,.0f}")
        axes[1].set_ylim(bottom=0)
        axes[1].set_ylabel("examples a second", fontsize=9)
        _plain_axis(axes[1], "speed")
    for axis in axes:
        axis.set_xscale("log", base=2)
        _plain_numbers(axis.xaxis)
        axis.set_xlabel("batch", fontsize=9)
        axis.legend(frameon=False, fontsize=8)
    return figure


@_plainly
def heat_map(exhibit: HeatMap) -> "Figure":
    """Layers from the input (below) to the output (above) over the steps; values that are not finite are red."""
    from matplotlib.colors import LogNorm, Normalize

    values = np.asarray(exhibit.values, float)
    good = np.isfinite(values) & ((values > 0) if exhibit.scale == "logarithmic" else True)
    seen = values[good]
    norm: Any = Normalize(0, 1)
    if exhibit.scale == "linear" and len(seen):
        norm = Normalize(float(seen.min()), max(float(seen.max()), float(seen.min()) + 1e-12))
    if exhibit.scale == "logarithmic" and len(seen):
        low = max(float(seen.min()), 1e-12 * float(seen.max()))
        norm = LogNorm(low, max(float(seen.max()), 1.001 * low))
        # An update or gradient of exactly 0 is shown as the smallest value.
        values = np.where(np.isfinite(values), np.maximum(values, low), np.nan)
    figure = _figure(7.5, float(np.clip(0.24 * len(values) + 1.3, 2.2, 12)))
    axis = figure.subplots()
    axis.set_facecolor("#dc2626")
    shown = np.ma.masked_invalid(values)
    image = axis.imshow(shown, aspect="auto", origin="lower", cmap="viridis", norm=norm, interpolation="nearest")
    every = -(-len(exhibit.layers) // 40)
    rows = range(0, len(exhibit.layers), every)
    axis.set_yticks(rows, [exhibit.layers[row] for row in rows], fontsize=8)
    columns = range(0, len(exhibit.steps), -(-len(exhibit.steps) // 10))
    axis.set_xticks(columns, [str(exhibit.steps[column]) for column in columns], fontsize=8)
    axis.set_xlabel("step", fontsize=9)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axis, pad=0.01)
    bar.ax.tick_params(labelsize=8)
    if exhibit.scale == "logarithmic" and len(seen):  # often less than a decade, in which there is no round number
        marks = np.geomspace(norm.vmin, norm.vmax, 4)
        bar.set_ticks(list(marks), labels=[f"{mark:.2g}" for mark in marks])
        bar.ax.minorticks_off()
    return figure
