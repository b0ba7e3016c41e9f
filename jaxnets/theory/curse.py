"""The curse of dimensionality: how many cells, or examples, a method without assumptions needs; and how structure avoids it.

Shapes: `P` points, `N` dims.
"""

import math

import numpy as np


def cells_needed(dims: int, *, error: float, lipschitz: float = 1.0) -> int:
    """Cells of a grid on `[0, 1]^N` whose centres tell a Lipschitz function up to `error` anywhere: `ceil(L sqrt(N) / (2
    error))^N`.

    The farthest point of a cell of side `1 / k` is `sqrt(N) / (2 k)` from its centre. One more dim multiplies the number by
    about `k`.
    """
    if dims < 1 or not error > 0 or not lipschitz > 0:
        raise ValueError(f"dims is at least 1, error and lipschitz are above 0; got {dims}, {error}, {lipschitz}")
    return max(1, math.ceil(lipschitz * math.sqrt(dims) / (2 * error))) ** dims


def nearest_distance(dims: int, points: int, *, queries: int = 500, seed: int = 0) -> float:
    """The mean distance from a random point of the unit cube to the nearest of `P` random points.

    It falls like `P^(-1 / N)`. In many dims the nearest neighbour is almost as far as any other point, so methods that rely on
    near neighbours (local constancy) fail.
    """
    if dims < 1 or points < 1 or queries < 1:
        raise ValueError(f"dims, points and queries are at least 1, got {dims}, {points}, {queries}")
    rng = np.random.default_rng(seed)
    known, asked = rng.uniform(size=(points, dims)), rng.uniform(size=(queries, dims))
    squares = np.square(asked).sum(1)[:, None] + np.square(known).sum(1) - 2 * asked @ known.T
    return float(np.sqrt(np.maximum(squares.min(axis=1), 0)).mean())
