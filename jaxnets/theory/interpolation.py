"""Approximation by ReLU networks with one hidden layer: interpolation, open sets, and functions of one direction.

Shapes: `B` batch, `N` inputs.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from jaxnets.theory.construction import Construction, of_layers

Function = Callable[[np.ndarray], np.ndarray]
"""A function of numbers `[K]` to numbers `[K]`."""


def relu_interpolation(function: Function, units: int, *, low: float = 0.0, high: float = 1.0) -> Construction:
    """The piecewise linear interpolation of a continuous function at `n + 1` equally spaced knots, by `n` ReLU units.

    Unit `i` begins at knot `i`, and its weight is the change of the slope there. With the distance of knots `h = (high -
    low) / n`:

    - `f` continuous: the error is at most its modulus of continuity at `h` (so it tends to 0 for every continuous `f`);
    - `f` with a Lipschitz constant `L`: at most `L h / 2`;
    - `f` with a second derivative: at most `h^2 max |f''| / 8`, and that of the slope at most `h max |f''| / 2`.

    Args:
        function: f.
        units: n, at least 1.
        low, high: ends of the interval.
    """
    if units < 1 or not low < high:
        raise ValueError(f"units is at least 1 and low < high; got {units} units on [{low}, {high}]")
    knots = np.linspace(low, high, units + 1)
    values = np.asarray(function(knots), float)
    if values.shape != knots.shape or not np.isfinite(values).all():
        raise ValueError(f"function gives one finite number for each of {len(knots)}, got shape {values.shape}")
    slopes = np.diff(values) / np.diff(knots)
    changes = np.diff(slopes, prepend=0.0)
    return of_layers([(np.ones((1, units)), -knots[:-1]), (changes[:, None], values[:1])], "relu")


def interpolation_bound(second_derivative: float, units: int, *, width: float = 1.0) -> float:
    """`h^2 max |f''| / 8` with `h = width / units`: what `relu_interpolation` keeps for a smooth function."""
    return second_derivative * (width / units) ** 2 / 8


def ridge(function: Function, direction: Sequence[float] | np.ndarray, units: int, *, radius: float) -> Construction:
    """A function of one direction in a space of any dim: `f(direction . x)`, with the bounds of `relu_interpolation`.

    The number of units does not depend on the dim. That is how structure breaks the curse of dimensionality: a network
    finds the direction, while a grid or nearest neighbours spend their points in all dims.

    Args:
        function: f, on `[-radius, radius]`.
        direction: `[N]`.
        units: hidden units.
        radius: the largest `|direction . x|` that is approximated.
    """
    kernel = np.asarray(direction, float)
    if kernel.ndim != 1:
        raise ValueError(f"a direction has one number for each input, shape [N]; got {kernel.shape}")
    model, variables = relu_interpolation(function, units, low=-radius, high=radius)
    hidden, output = variables["params"]["hidden_0"], variables["params"]["output"]
    return of_layers(
        [(np.repeat(kernel[:, None], units, axis=1), hidden["bias"]), (output["kernel"], output["bias"])],
        model.activation,
    )


def open_set(intervals: Sequence[tuple[float, float]], precision: int) -> Construction:
    """A network that is above 0 exactly inside given open intervals, but for a set of length `2 / precision`.

    Over an interval `(a, b)` three units make the tent `min(x - a, b - x)`, which is 0 outside. A bias below 0 keeps
    rounding outside from looking like a member. It takes `1 / (precision k)` off each end of `k` intervals.

    Args:
        intervals: `(low, high)`, disjoint.
        precision: the n of the bound `2 / n`.
    """
    ends = sorted((float(a), float(b)) for a, b in intervals)
    apart = all(before[1] <= after[0] for before, after in itertools.pairwise(ends))
    if not ends or precision < 1 or not apart or any(a >= b for a, b in ends):
        raise ValueError(
            f"give disjoint intervals (low, high) with low < high, and a precision >= 1; got {intervals}, {precision}"
        )
    places = np.array([[a, (a + b) / 2, b] for a, b in ends]).ravel()
    weights = np.tile([1.0, -2.0, 1.0], len(ends))
    return of_layers([(np.ones((1, places.size)), -places), (weights[:, None], [-1 / (precision * len(ends))])], "relu")
