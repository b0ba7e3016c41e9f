"""The linear regions of a ReLU network, counted exactly.

A region is a set of inputs with one pattern of active units; there the network is an affine function. Sampling misses small
regions, so none of this samples.

Shapes: `N` inputs, `M` half-spaces.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxnets.models.mlp import MLP
from jaxnets.theory.construction import Construction, layers_of

# Half-spaces closer than this to a region's edge do not split it: linear programs are solved to about 1e-9.
LEAST_RADIUS = 1e-7


def pieces_1d(construction: Construction, *, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """The ends of the linear pieces of a network with one input on `[low, high]`, float64 `[pieces + 1]`.

    Layer by layer: on each interval so far a unit is an affine function of the input, and its zero splits the interval. In
        the end,
    neighbours with the same slope and value are one piece (a unit whose effect the next layers cancel makes no kink).
    """
    layers = _relu_layers(construction)
    if layers[0][0].shape[0] != 1 or not low < high:
        raise ValueError(f"the network has one input and low < high; got {layers[0][0].shape[0]}, [{low}, {high}]")
    ends = np.array([low, high], float)
    for number in range(len(layers) - 1):
        value = _values(layers[: number + 1], ends)
        left, right = value[:-1], value[1:]
        crosses = left * right < 0
        with np.errstate(divide="ignore", invalid="ignore"):
            zero = ends[:-1, None] + (ends[1:] - ends[:-1])[:, None] * left / (left - right)
        ends = np.unique(np.concatenate([ends, zero[crosses]]))
    value = _values(layers, ends)
    slopes = np.diff(value, axis=0) / np.diff(ends)[:, None]
    scale = max(1.0, float(np.abs(slopes).max()))
    kinks = np.abs(np.diff(slopes, axis=0)).max(axis=1) > 1e-9 * scale
    return np.concatenate([ends[:1], ends[1:-1][kinks], ends[-1:]])


@dataclasses.dataclass(frozen=True)
class Region:
    """A polytope `normals @ x <= offsets` of inputs with one pattern of active units."""

    pattern: tuple[bool, ...]
    """Which hidden units are active, in the order of the layers."""
    normals: np.ndarray
    """The half-spaces' normals, `[M, N]`, rows of length 1; the box comes first."""
    offsets: np.ndarray
    """The right-hand sides, `[M]`."""
    centre: np.ndarray
    """The centre of the largest ball in it, `[N]`."""


def linear_regions(construction: Construction, *, low: float = -1.0, high: float = 1.0) -> list[Region]:
    """All linear regions of a ReLU network in the box `[low, high]^N`, by linear programs.

    One hidden unit after another splits the regions so far: in a region the unit is an affine function, so its zero set is a
    hyperplane. A linear program finds the largest ball on each side of it. Where the ball has a radius, there is a region.
    The result is exact up to regions that no ball of radius 1e-7 fits in. Each pair of a region and a unit costs one linear
    program, about a millisecond.

    Args:
        construction: an MLP with relu, or a Perceptron, whose units then count as hidden ones.
        low, high: the box; a box that is large enough has all regions.
    """
    layers = _relu_layers(construction)
    inputs = layers[0][0].shape[0]
    if not low < high:
        raise ValueError(f"low is below high, got [{low}, {high}]")
    normals = np.concatenate([np.eye(inputs), -np.eye(inputs)])
    offsets = np.concatenate([np.full(inputs, high), np.full(inputs, -low)]).astype(float)
    found = [Region((), normals, offsets, np.full(inputs, (low + high) / 2))]
    hidden = layers if not isinstance(construction.model, MLP) else layers[:-1]
    first = 0
    for kernel, bias in hidden:
        # Affine maps of the regions of the layers before; the units of this layer do not change them.
        maps = [_affine(hidden, region.pattern, first, inputs) for region in found]
        for unit in range(kernel.shape[1]):
            split: list[tuple[Region, Any]] = []
            for region, (slope, constant) in zip(found, maps, strict=True):
                row, shift = kernel[:, unit] @ slope, float(kernel[:, unit] @ constant + bias[unit])
                split += [(part, (slope, constant)) for part in _split(region, row, shift)]
            found, maps = [part for part, _ in split], [map_ for _, map_ in split]
        first += kernel.shape[1]
    return found


def _relu_layers(construction: Construction) -> list[tuple[np.ndarray, np.ndarray]]:
    activation = getattr(construction.model, "activation", "relu")
    if activation != "relu":
        raise ValueError(f"linear regions are counted for relu, got an MLP with {activation!r}; give it relu")
    return layers_of(construction)


def _values(layers: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray) -> np.ndarray:
    """Potentials `[K, units]` of the last of some layers for inputs `[K]`, in float64."""
    value = x[:, None]
    for number, (kernel, bias) in enumerate(layers):
        value = (np.maximum(value, 0) if number else value) @ kernel + bias
    return value


def _affine(layers: Any, pattern: tuple[bool, ...], units: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """The outputs of the first `units` hidden units' last layer as `slope @ x + constant` where a pattern holds."""
    slope, constant, done = np.eye(inputs), np.zeros(inputs), 0
    for kernel, bias in layers:
        if done == units:
            break
        active = np.array(pattern[done : done + kernel.shape[1]], float)
        slope, constant = active[:, None] * (kernel.T @ slope), active * (constant @ kernel + bias)
        done += kernel.shape[1]
    return slope, constant


def _split(region: Region, row: np.ndarray, shift: float) -> list[Region]:
    """The one or two parts of a region on the sides of `row @ x + shift = 0`; the inactive side comes first."""
    length = float(np.linalg.norm(row))
    if length < 1e-12:
        return [dataclasses.replace(region, pattern=(*region.pattern, shift > 0))]
    row, shift = row / length, shift / length
    # The centre is well inside one of the parts already, unless the hyperplane runs through it.
    at_centre = float(row @ region.centre + shift)
    parts = []
    for active in (False, True):
        side = -1.0 if active else 1.0
        normals, offsets = np.vstack([region.normals, side * row]), np.append(region.offsets, -side * shift)
        centre = region.centre
        if (at_centre > 0) != active or abs(at_centre) < LEAST_RADIUS:
            ball = largest_ball(normals, offsets)
            if ball is None:
                continue
            centre = ball
        parts.append(Region((*region.pattern, active), normals, offsets, centre))
    return parts


def largest_ball(normals: np.ndarray, offsets: np.ndarray) -> np.ndarray | None:
    """The centre `[N]` of the largest ball in `normals @ x <= offsets` with rows of length 1; None if there is none.

    Its radius is limited to 1 (so a region without end has one), and has to be over 1e-7.
    """
    from scipy.optimize import linprog  # a dependency of jax; its import takes time

    dims = normals.shape[1]
    found = linprog(
        np.append(np.zeros(dims), -1.0),
        A_ub=np.hstack([normals, np.ones((len(normals), 1))]),
        b_ub=offsets,
        bounds=[(None, None)] * dims + [(0, 1)],
        method="highs",
    )
    if found.status != 0 or found.x[-1] < LEAST_RADIUS:
        return None
    centre: np.ndarray = found.x[:-1]
    return centre
