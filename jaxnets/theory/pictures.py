"""Pictures of networks in the plane: what they decide, how they fold and bend space, where they are linear.

Each takes one call and returns a matplotlib `Figure`, which a notebook shows and `savefig` writes.

Shapes: `K` points.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnets.models.activations import ACTIVATIONS
from jaxnets.theory.construction import Construction, layers_of
from jaxnets.theory.depth import tent, tent_values
from jaxnets.theory.picture_style import COLOURS, INK, Panels
from jaxnets.theory.regions import Region, linear_regions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def decision_boundary(
    construction: Construction,
    *,
    low: float = 0.0,
    high: float = 1.0,
    points: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> "Figure":
    """Where a network with two inputs is at least 0: coloured, with the boundary drawn.

    Args:
        construction: two inputs.
        low, high: both axes.
        points: drawn on top, `[K, 2]`.
        labels: 0 or 1 for each point, `[K]`; full dots are 1.
    """
    _two_inputs(construction)
    side = np.linspace(low, high, 301)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    fires = construction.fires(grid).reshape(301, 301).astype(float)
    with Panels(size=(3.4, 3.4)) as panels:
        (axes,) = panels.axes
        axes.contourf(side, side, fires, levels=[0.5, 1.5], colors=[COLOURS[0]], alpha=0.3)
        axes.contour(side, side, fires, levels=[0.5], colors=[COLOURS[0]])
        if points is not None:
            points = np.asarray(points)
            _dots(axes, points, np.ones(len(points)) if labels is None else np.asarray(labels))
        axes.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal", title="the network is ≥ 0 in the coloured set")
    return panels.figure


def folding(depth: int = 4) -> "Figure":
    """The tent map after each of some layers: every layer doubles the number of linear pieces."""
    x = np.arange(2**depth * 4 + 1) / (2**depth * 4)
    with Panels(depth, size=(2.2, 1.9), sharey=True) as panels:
        for layers, axes in enumerate(panels.axes, 1):
            axes.plot(x, np.asarray(tent(layers)(x[:, None])[:, 0]), color=COLOURS[0])
            axes.plot(x, tent_values(x, layers), ".", color=COLOURS[1], markersize=2)
            axes.set(title=f"depth {layers}: {2**layers} pieces, {2 * layers} units", xticks=[0, 1], yticks=[0, 1])
            axes.title.set_fontsize(8)
    return panels.figure


def regions_in_the_plane(construction: Construction, *, low: float = -1.0, high: float = 1.0) -> "Figure":
    """The linear regions of a ReLU network with two inputs, each a polygon with its own colour."""
    _two_inputs(construction)
    found = linear_regions(construction, low=low, high=high)
    hues = np.random.default_rng(1).permutation(len(found))
    from matplotlib import colormaps

    with Panels(size=(3.6, 3.6)) as panels:
        (axes,) = panels.axes
        for region, hue in zip(found, hues, strict=True):
            corners = polygon(region, low, high)
            axes.fill(*corners.T, facecolor=colormaps["turbo"](0.08 + 0.84 * hue / len(found)), edgecolor=INK, lw=0.5)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
        axes.set_title(f"{len(found)} linear regions of {construction.units()} units")
    return panels.figure


def bent_space(
    construction: Construction, *, low: float = 0.0, high: float = 1.0, labels: Any = (0, 1, 1, 0)
) -> "Figure":
    """How a hidden layer of two units bends the plane: a grid before and after it, and the line that the output unit draws
    there.

    Args:
        construction: an MLP with two inputs, whose first hidden layer has two units and is followed by the output.
        low, high: both input axes.
        labels: of the corners `(low, low)`, `(low, high)`, `(high, low)`, `(high, high)`.
    """
    _two_inputs(construction)
    layers = layers_of(construction)
    if len(layers) != 2 or layers[0][0].shape[1] != 2:
        raise ValueError(f"one hidden layer of two units can be drawn, got widths {construction.model.widths}")
    (kernel, bias), (out, constant) = layers

    def hidden(x: np.ndarray) -> np.ndarray:
        return np.asarray(ACTIVATIONS[construction.model.activation](x @ kernel + bias))

    lines, along = np.linspace(low, high, 11), np.linspace(low, high, 201)
    corners = np.array([[a, b] for a in (low, high) for b in (low, high)], float)
    with Panels(2, size=(3.2, 3.2)) as panels:
        for axes, bend in zip(panels.axes, (lambda x: x, hidden), strict=True):
            for place in lines:
                fixed = np.full_like(along, place)
                axes.plot(*bend(np.stack([fixed, along], axis=-1)).T, color=COLOURS[0], lw=0.8)
                axes.plot(*bend(np.stack([along, fixed], axis=-1)).T, color=COLOURS[2], lw=0.8)
            _dots(axes, bend(corners), np.asarray(labels))
            axes.set(aspect="equal")
        before, after = panels.axes
        before.set(title="inputs", xlabel="$x_1$", ylabel="$x_2$")
        after.set(title="hidden layer, and the output's line", xlabel="$h_1$", ylabel="$h_2$")
        xs, (bottom, top) = np.array(after.get_xlim()), after.get_ylim()
        after.plot(xs, -(constant[0] + out[0, 0] * xs) / out[1, 0], color=COLOURS[1])
        after.set(xlim=xs, ylim=(bottom, top))
    return panels.figure


def polygon(region: Region, low: float, high: float) -> np.ndarray:
    """The corners of a region in the plane, in order, `[K, 2]`: a square cut by one half-plane after another."""
    corners = np.array([[low, low], [high, low], [high, high], [low, high]], float)
    for normal, offset in zip(region.normals, region.offsets, strict=True):
        inside = offset - corners @ normal
        kept = []
        for number, corner in enumerate(corners):
            following = (number + 1) % len(corners)
            if inside[number] >= 0:
                kept.append(corner)
            if inside[number] * inside[following] < 0:
                share = inside[number] / (inside[number] - inside[following])
                kept.append(corner + share * (corners[following] - corner))
        corners = np.array(kept).reshape(-1, 2)
    return corners


def _dots(axes: Any, points: np.ndarray, labels: np.ndarray) -> None:
    axes.scatter(*points.T, facecolors=[COLOURS[1] if on else "none" for on in labels], edgecolors=COLOURS[1], zorder=3)


def _two_inputs(construction: Construction) -> None:
    inputs = layers_of(construction)[0][0].shape[0]
    if inputs != 2:
        raise ValueError(f"a picture in the plane needs a network with 2 inputs, got one with {inputs}")
