"""Sets as networks of step units: half-spaces, their intersections, unions of those, and covers by cubes.

A network represents the set where its output is at least 0 (`Construction.fires`).

Shapes: `B` batch, `N` inputs, `M` half-spaces.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxnets.models.rbf import RBF
from jaxnets.theory.construction import Construction, of_layers
from jaxnets.theory.neurons import neuron


def half_space(normal: Sequence[float] | np.ndarray, offset: float) -> Construction:
    """One neuron: it fires where `normal . x <= offset`."""
    return neuron(-np.asarray(normal, float), bias=offset)


def ball(centre: Sequence[float] | np.ndarray, radius: float) -> Construction:
    """One radial unit, whose inner potential is `|x - centre|`: it fires within the radius. No single half-space does.

    Args:
        centre: `[N]`.
        radius: above 0.
    """
    middle = np.asarray(centre, float)
    if middle.ndim != 1 or not radius > 0:
        raise ValueError(f"a ball has a centre [N] and a radius above 0, got shape {middle.shape} and {radius}")
    output = {"kernel": jnp.ones((1, 1)), "bias": jnp.asarray([-math.exp(-1)])}  # exp(-(|x - c| / radius)^2) >= 1 / e
    params = {"centres": jnp.asarray(middle[None]), "log_widths": jnp.asarray([math.log(radius)]), "output": output}
    return Construction(RBF(centres=1, outputs=1), {"params": params})


def polytope(normals: np.ndarray, offsets: np.ndarray) -> Construction:
    """Two layers: an intersection of half-spaces is convex. It fires where `normals @ x <= offsets` in every row.

    Args:
        normals: `[M, N]`.
        offsets: `[M]`.
    """
    normals, offsets = _half_spaces(normals, offsets)
    return of_layers([(-normals.T, offsets), (np.ones((len(offsets), 1)), [-len(offsets)])], "step")


def union(polytopes: Sequence[tuple[np.ndarray, np.ndarray]]) -> Construction:
    """Three layers: a union of polytopes, which is any set with straight edges. It fires where one of them contains `x`.

    Args:
        polytopes: `(normals [M, N], offsets [M])` of each, as in `polytope`.
    """
    if not polytopes:
        raise ValueError("a union has at least one polytope, got none")
    checked = [_half_spaces(*given) for given in polytopes]
    dims = {normals.shape[1] for normals, _ in checked}
    if len(dims) > 1:
        raise ValueError(f"the polytopes of a union lie in one space, got dims {sorted(dims)}")
    kernel = np.concatenate([-normals for normals, _ in checked]).T
    bias = np.concatenate([offsets for _, offsets in checked])
    sizes = [len(offsets) for _, offsets in checked]
    member = np.repeat(np.eye(len(sizes)), sizes, axis=0)
    return of_layers([(kernel, bias), (member, -np.array(sizes)), (np.ones((len(sizes), 1)), [-1])], "step")


def cube_cover(mask: np.ndarray) -> Construction:
    """Three layers: the union of those cells of a grid on `[0, 1)^N` that a mask names.

    The cells share their half-spaces: dim `i` has the `k + 1` thresholds `x_i >= j / k`, so the first layer has `N (k + 1)`
    units, not `2 N` for each cell. A unit of the second layer is a cell `[j / k, (j + 1) / k)` in every dim.

    For a set `A` with the boundary length (area, ...) `P`, the cells that meet the boundary have about the volume `P
    sqrt(N) / k`, and the mistakes lie in them. So the error falls with `1 / k`, and the number of cells grows with `k^N`.

    Args:
        mask: bool, `[k] * N`; True for the cells of the set.
    """
    mask = np.asarray(mask, bool)
    if mask.ndim < 1 or len(set(mask.shape)) != 1 or not mask.any():
        raise ValueError(
            f"a mask has the same number of cells along each dim, and a cell that is True; got shape {mask.shape} with "
            f"{int(mask.sum())} True"
        )
    dims, count = mask.ndim, mask.shape[0]
    thresholds = count + 1
    kernel = np.repeat(np.eye(dims), thresholds, axis=1)
    bias = -np.tile(np.arange(thresholds) / count, dims)
    cells = np.argwhere(mask)
    member = np.zeros((dims * thresholds, len(cells)))
    for dim in range(dims):
        member[dim * thresholds + cells[:, dim], np.arange(len(cells))] = 1
        member[dim * thresholds + cells[:, dim] + 1, np.arange(len(cells))] = -1
    layers = [(kernel, bias), (member, np.full(len(cells), -float(dims))), (np.ones((len(cells), 1)), [-1])]
    return of_layers(layers, "step")


def cells(dims: int, count: int) -> np.ndarray:
    """The centres of the cells of a grid on `[0, 1]^N`, float64 `[k, ..., k, N]`: the points at which a mask is decided."""
    if dims < 1 or count < 1:
        raise ValueError(f"a grid has at least 1 dim and 1 cell along each, got {dims} and {count}")
    middle = (np.arange(count) + 0.5) / count
    return np.stack(np.meshgrid(*[middle] * dims, indexing="ij"), axis=-1)


def _half_spaces(normals: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    normals, offsets = np.asarray(normals, float), np.asarray(offsets, float)
    if normals.ndim != 2 or offsets.shape != normals.shape[:1] or not normals.size:
        raise ValueError(f"half-spaces are normals [M, N] and offsets [M], got {normals.shape} and {offsets.shape}")
    return normals, offsets
