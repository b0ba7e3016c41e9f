"""Plots of explanations: maps beside the inputs that they explain, points of the plane by class. Plain data in."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnets.report.plots import INK, OVERLAID, TEST, VALIDATION, _figure, _plainly

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@_plainly
def attributions(inputs: np.ndarray, maps: Mapping[str, np.ndarray], captions: Sequence[str] = ()) -> "Figure":
    """A row for each example: the input, then each map. Red increases the output, blue decreases it.

    Each map has its own scale for each example, white at 0. A map over channels is summed over them. Inputs that are no images
    are drawn as bars.

    Args:
        inputs: images `[N, H, W]` or `[N, H, W, C]`, or rows of numbers `[N, F]`.
        maps: `[N, ...]` by name: of the shape of the inputs, or coarser in the first two dims (occlusion).
        captions: of each example; () for none.
    """
    images = inputs.ndim >= 3
    width, height = (1.5, 1.55) if images else (3.6, 1.7)
    figure = _figure(width * (1 + len(maps)), height * len(inputs) + 0.25)
    axes = figure.subplots(len(inputs), 1 + len(maps), squeeze=False)
    for row, example in enumerate(inputs):
        _input(axes[row, 0], example, images)
        axes[row, 0].set_ylabel(captions[row] if captions else "", fontsize=9, color=INK)
        for axis, (name, found) in zip(axes[row, 1:], maps.items(), strict=True):
            _map(axis, np.asarray(found[row], np.float64), example.shape[:2], images)
            if row == 0:
                axis.set_title(name, fontsize=9, color=INK)
    return figure


def _input(axis: Any, example: np.ndarray, images: bool) -> None:
    if images:
        shown = np.asarray(example, np.float64)
        shown = (shown - shown.min()) / max(shown.max() - shown.min(), 1e-12)
        grey = shown.ndim == 2 or shown.shape[-1] not in (3, 4)
        axis.imshow(shown.reshape(*shown.shape[:2], -1)[..., 0] if grey else shown, cmap="gray_r")
        axis.set(xticks=[], yticks=[])
    else:
        axis.bar(np.arange(example.size), example.ravel(), color=INK)
        axis.tick_params(labelsize=8)
    axis.spines[:].set_visible(False)


def _map(axis: Any, found: np.ndarray, extent: tuple[int, ...], images: bool) -> None:
    if not images:
        axis.bar(np.arange(found.size), found.ravel(), color=[TEST if v > 0 else VALIDATION for v in found.ravel()])
        axis.axhline(0, color=INK, lw=0.6)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        return
    flat = found.reshape(*found.shape[:2], -1).sum(axis=-1)
    most = max(float(np.abs(flat).max()), 1e-12)
    height, width = extent
    axis.imshow(flat, cmap="RdBu_r", vmin=-most, vmax=most, extent=(0, width, height, 0), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


@_plainly
def plane(points: np.ndarray, labels: np.ndarray | None = None, names: Sequence[str] = ()) -> "Figure":
    """Points of the plane, coloured by class.

    Args:
        points: `[N, 2]`.
        labels: class numbers `[N]`; None: one colour.
        names: of the classes.
    """
    from matplotlib import colormaps

    figure = _figure(5, 4.4)
    axis = figure.subplots()
    classes = [] if labels is None else np.unique(labels).tolist()
    if labels is None:
        axis.plot(*points.T, ".", ms=4, color=VALIDATION)
    for number, label in enumerate(classes):
        colour = (
            OVERLAID[number]
            if len(classes) <= len(OVERLAID)
            else colormaps["tab10" if len(classes) <= 10 else "tab20"](number % 20)
        )
        name = names[label] if label < len(names) else str(label)
        axis.plot(*points[labels == label].T, ".", ms=5, alpha=0.8, color=colour, label=name)
    if classes:
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


@_plainly
def grid(
    inputs: Sequence[np.ndarray],
    beside: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    rows: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
) -> "Figure":
    """Examples in rows: an input, where there is one, and others beside it.

    Args:
        inputs: images or rows of numbers, one for each row of the grid; empty: none.
        beside: for each row the examples beside it, all rows of the same length.
        titles: of the columns of `beside`; () for none.
        rows: names of the rows; () for none.
        captions: a line below each example of `beside`; () for none.
    """
    first = 1 if len(inputs) else 0
    images = beside[0][0].ndim >= 2
    width, height = (1.2, 1.45) if images else (2.4, 1.7)
    figure = _figure(width * (first + len(beside[0])) + 0.3, height * len(beside) + 0.25)
    axes = figure.subplots(len(beside), first + len(beside[0]), squeeze=False)
    for row, examples in enumerate(beside):
        if first:
            _input(axes[row, 0], inputs[row], images)
        for column, example in enumerate(examples):
            axis = axes[row, first + column]
            _input(axis, example, images)
            if titles and row == 0:
                axis.set_title(titles[column], fontsize=9, color=INK)
            if captions:
                axis.set_xlabel(captions[row][column], fontsize=8, color=INK)
        axes[row, 0].set_ylabel(rows[row] if rows else "", fontsize=8, color=INK)
    return figure
