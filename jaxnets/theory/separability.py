"""Which labellings a hyperplane separates: Cover's count, a linear program that decides, and the perceptron's bound.

Shapes: `P` points, `N` dims.
"""

import math

import numpy as np


def separable_labellings(points: int, dims: int) -> int:
    """Of the `2^P` labellings of points in general position so many are separated by a hyperplane through the origin (Cover
    1965).

    `2 sum_{k < d} C(P - 1, k)`. With a bias, points of dim `d` are points of dim `d + 1` whose last number is 1.
    """
    if points < 1 or dims < 1:
        raise ValueError(f"points and dims are at least 1, got {points} and {dims}")
    return 2 * sum(math.comb(points - 1, k) for k in range(min(dims, points)))


def separable_fraction(points: int, dims: int) -> float:
    """The share of labellings that are separable: 1 up to `P = d`, exactly 1/2 at `P = 2 d`, then towards 0."""
    return separable_labellings(points, dims) / 2**points


def separating_plane(x: np.ndarray, signs: np.ndarray) -> np.ndarray | None:
    """Weights `[N]` with `signs * (x @ w) >= 1` at all points, by a linear program; None if there are none.

    A hyperplane through the origin. Append a column of ones for a bias.

    Args:
        x: `[P, N]`.
        signs: -1 and 1, `[P]`.
    """
    from scipy.optimize import linprog  # a dependency of jax; its import takes time

    x, signs = _labelled(x, signs)
    dims = x.shape[1]
    found = linprog(
        np.zeros(dims), A_ub=-signs[:, None] * x, b_ub=-np.ones(len(x)), bounds=[(None, None)] * dims, method="highs"
    )
    weights: np.ndarray | None = found.x if found.status == 0 else None
    return weights


def perceptron(x: np.ndarray, signs: np.ndarray, *, most_updates: int = 10_000) -> tuple[np.ndarray, int, bool]:
    """Rosenblatt's rule: while a point is on the wrong side, add `sign * x` to the weights, which turns the line towards it.

    Returns:
        the weights `[N]`, how many updates there were, and whether all points are on their sides now. Where no hyperplane
        separates them it never ends by itself, so it stops after `most_updates`.
    """
    x, signs = _labelled(x, signs)
    weights, updates = np.zeros(x.shape[1]), 0
    while updates < most_updates:
        before = updates
        for point, sign in zip(x, signs, strict=True):
            if sign * (point @ weights) <= 0 and updates < most_updates:
                weights, updates = weights + sign * point, updates + 1
        if updates == before:
            return weights, updates, True
    return weights, updates, bool((signs * (x @ weights) > 0).all())


def perceptron_bound(x: np.ndarray, signs: np.ndarray, weights: np.ndarray) -> float:
    """The most updates that the rule makes: `(R / margin)^2` (Novikoff 1962).

    Args:
        x: `[P, N]`; `R` is the length of the longest point.
        signs: -1 and 1, `[P]`.
        weights: any separating `[N]`; its margin is `min signs * (x @ w) / |w|`. A larger margin gives a better bound.
    """
    x, signs = _labelled(x, signs)
    margin = float((signs * (x @ weights)).min() / np.linalg.norm(weights))
    if not margin > 0:
        raise ValueError(
            f"the bound needs weights that separate the points; these have the margin {margin:.3g}, so take "
            f"those of `separating_plane`"
        )
    return (float(np.linalg.norm(x, axis=1).max()) / margin) ** 2


def _labelled(x: np.ndarray, signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, signs = np.asarray(x, float), np.asarray(signs, float)
    if x.ndim != 2 or signs.shape != x.shape[:1] or not np.isin(signs, (-1, 1)).all():
        raise ValueError(f"give points [P, N] and a sign -1 or 1 for each; got shapes {x.shape} and {signs.shape}")
    return x, signs
