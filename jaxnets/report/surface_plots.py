"""Plots of the curvature of a loss and of the robustness of a network. Plain data in, figures out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnets.report.instrument_plots import _plain_axis, _plain_numbers
from jaxnets.report.plots import OVERLAID, VALIDATION, _figure, _plainly

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@_plainly
def spectrum(at: np.ndarray, density: np.ndarray, *, title: str = "eigenvalues of the Hessian") -> "Figure":
    """The density of eigenvalues on a logarithmic scale, of which the top seven decades are shown.

    Args:
        at: eigenvalues, `[N]`.
        density: at each of them, `[N]`.
        title: above the plot.
    """
    figure = _figure(6.2, 3.4)
    axis = figure.subplots()
    floor = 1e-7 * float(np.max(density))
    axis.fill_between(at, np.maximum(density, floor), floor, color=VALIDATION, alpha=0.25, lw=0)
    axis.plot(at, np.maximum(density, floor), color=VALIDATION, lw=1.4)
    axis.set_yscale("log")
    _plain_numbers(axis.yaxis)
    axis.set_ylim(bottom=floor)
    _finish(axis, title, "eigenvalue", "density")
    return figure


@_plainly
def loss_slice(at: np.ndarray, losses: np.ndarray, *, title: str = "loss") -> "Figure":
    """A loss along one direction as a line, `[A]`, or along two as contours of even ratios, `[A, A]`; white where it is not a
    number.

    Args:
        at: places along each direction, `[A]`.
        losses: the first index belongs to the first direction, which is drawn across.
        title: above the plot.
    """
    figure = _figure(4.6, 3.8)
    axis = figure.subplots()
    losses = np.where(np.isfinite(losses), losses, np.nan)
    if losses.ndim == 2 and np.nanmax(losses, initial=-np.inf) <= np.nanmin(losses, initial=np.inf):
        axis.text(0.5, 0.5, "the loss does not change here", ha="center", fontsize=9, transform=axis.transAxes)
        _finish(axis, title, "first direction", "second direction")
        return figure
    if losses.ndim == 1:
        axis.plot(at, losses, color=VALIDATION, lw=1.6)
        _finish(axis, title, "along the direction", "loss")
        return figure
    low, high = float(np.nanmin(losses)), float(np.nanmax(losses))
    levels: Any = np.linspace(low, high, 16) if low <= 0 or high / low < 1.5 else np.geomspace(low, high, 16)
    drawn = axis.contourf(at, at, losses.T, levels=np.unique(levels), cmap="viridis")
    axis.contour(at, at, losses.T, levels=np.unique(levels), colors="white", linewidths=0.4, alpha=0.6)
    bar = figure.colorbar(drawn, ax=axis, pad=0.02, format="%.2g")
    bar.ax.tick_params(labelsize=8)
    _finish(axis, title, "first direction", "second direction")
    axis.grid(visible=False)
    return figure


@_plainly
def curves(
    values: Mapping[str, np.ndarray], *, at: Sequence[float] | None = None, across: str, up: str, title: str = ""
) -> "Figure":
    """Curves by name, such as the accuracy over the severity of each corruption, or the loss along several paths.

    Args:
        values: name to numbers, `[S]`.
        at: places of the numbers; None: 0, 1, 2, ...
        across: label of the places.
        up: label of the numbers.
        title: above the plot.
    """
    figure = _figure(5.4, 3.6)
    axis = figure.subplots()
    for number, (name, line) in enumerate(values.items()):
        places = np.arange(len(line)) if at is None else np.asarray(at)
        axis.plot(places, line, ".-", ms=5, lw=1.5, color=OVERLAID[number % len(OVERLAID)], label=name)
    _finish(axis, title, across, up)
    axis.legend(frameon=False, fontsize=8)
    return figure


def _finish(axis: Any, title: str, across: str, up: str) -> None:
    axis.set_xlabel(across, fontsize=9)
    axis.set_ylabel(up, fontsize=9)
    _plain_axis(axis, title)
