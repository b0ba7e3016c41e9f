"""The benefit of depth: tent maps, which a deep network computes by folding and a shallow one cannot approximate (Telgarsky
2015, 2016)."""

import numpy as np

from jaxnets.theory.construction import Construction, of_layers


def tent(depth: int) -> Construction:
    """The tent map `T(x) = 2 min(x, 1 - x)` on [0, 1], applied `depth` times: `2^depth` linear pieces by `2 depth` ReLU units.

    Each hidden layer has the units `relu(t)` and `relu(t - 1/2)` of the value `t` so far, and `T(t) = 2 relu(t) - 4 relu(t
    - 1/2)`. A layer folds the interval in half, so what the next layer draws appears in both halves. All weights are powers
    of two: values at multiples of `2^-k` are exact.
    """
    if depth < 1:
        raise ValueError(f"depth is the number of tent maps, at least 1; got {depth}")
    fold = np.array([[2.0], [-4.0]])
    layers: list[tuple[np.ndarray, np.ndarray]] = [(np.ones((1, 2)), np.array([0, -0.5]))]
    layers += [(np.repeat(fold, 2, axis=1), np.array([0, -0.5]))] * (depth - 1)
    return of_layers([*layers, (fold, np.zeros(1))], "relu")


def tent_values(x: np.ndarray, depth: int) -> np.ndarray:
    """The same function by its definition, for numbers of any shape in [0, 1]."""
    for _ in range(depth):
        x = 2 * np.minimum(x, 1 - x)
    return x


def least_error(depth: int, pieces: int) -> float:
    """No continuous function with `pieces` linear pieces comes nearer to `tent(depth)` than this, in the mean of `|f - g|`
    on [0, 1].

    The tent crosses 1/2 in such a way that `2^depth - 1` triangles of area `2^-depth / 4` lie in turn above and below it.
    `g` has at most `pieces` changes of sign around 1/2, so at most `pieces + 1` stretches without one. In a stretch with
    `r` whole triangles at least `(r - 1) / 2` are on the other side, and each costs its area. The sum is at least `1/8 -
    (pieces + 1) / 2^(depth + 2)`.

    A network with one hidden layer of `m` ReLU units has at most `m + 1` pieces, so it needs about `2^(depth - 1)` units where
    `2 depth` do it in depth.
    """
    if depth < 1 or pieces < 1:
        raise ValueError(f"depth and pieces are at least 1, got {depth} and {pieces}")
    return max(0.0, 1 / 8 - (pieces + 1) / 2 ** (depth + 2))


def shallow_fit(depth: int, units: int) -> Construction:
    """The least-squares fit of `tent(depth)` by one hidden layer of ReLU units with equally spaced kinks: for comparison."""
    if units < 1:
        raise ValueError(f"units is at least 1, got {units}")
    x = (np.arange(2**depth * 16) + 0.5) / (2**depth * 16)
    kinks = np.arange(units) / units
    hidden = np.concatenate([np.maximum(x[:, None] - kinks, 0), np.ones((len(x), 1))], axis=1)
    weights = np.linalg.lstsq(hidden, tent_values(x, depth), rcond=None)[0]
    return of_layers([(np.ones((1, units)), -kinks), (weights[:-1, None], weights[-1:])], "relu")
