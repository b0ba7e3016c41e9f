"""Approximation by sigmoids: Cybenko's theorem as a staircase in one dim, and by random features in many.

Shapes: `B` batch, `N` inputs, `P` points.
"""

import math
from collections.abc import Callable

import numpy as np

from jaxnets.theory.construction import Construction, of_layers
from jaxnets.theory.interpolation import Function


def sigmoid_staircase(function: Function, pieces: int, *, steepness: float | None = None) -> Construction:
    """A continuous function on [0, 1] by a sum of steep sigmoids (Cybenko 1989, as a construction).

    `F(x) = f(m_1) + sum_i (f(m_{i+1}) - f(m_i)) sigmoid(steepness (x - i / n))`, with the middles `m_i` of `n` equal
    pieces. For a Lipschitz constant `L` its error is at most `staircase_bound(L, n)`, about `L / 2n`. `F` may leave the
    range of `f` by that much: the output unit is linear. With steepness to infinity the sigmoids become steps.

    Args:
        function: f.
        pieces: n, at least 2; there are `n - 1` hidden units.
        steepness: of each sigmoid; None takes `20 n`.
    """
    if pieces < 2 or not (steepness is None or steepness > 0):
        raise ValueError(f"a staircase has at least 2 pieces and a steepness above 0, got {pieces} and {steepness}")
    steep = 20.0 * pieces if steepness is None else steepness
    values = np.asarray(function((np.arange(pieces) + 0.5) / pieces), float)
    edges = np.arange(1, pieces) / pieces
    kernel = np.full((1, pieces - 1), steep)
    return of_layers([(kernel, -steep * edges), (np.diff(values)[:, None], values[:1])], "sigmoid")


def staircase_bound(lipschitz: float, pieces: int, *, steepness: float | None = None) -> float:
    """The largest error of `sigmoid_staircase`: `L / 2n + (2 L / n) e^(-s / 2n) / (1 - e^(-s / n))`.

    The nearest step of the staircase mixes the values of two neighbouring pieces, in favour of the piece that contains `x`;
    that keeps `L / 2n`. The other steps are at least `1 / 2n, 3 / 2n, ...` away on both sides, and each is off by at most
    `(L / n) e^(-s distance)`. Their sum is the second term.
    """
    steep = 20.0 * pieces if steepness is None else steepness
    tail = math.exp(-steep / (2 * pieces)) / -math.expm1(-steep / pieces)
    return lipschitz / (2 * pieces) + 2 * lipschitz / pieces * tail


def random_features(
    function: Callable[[np.ndarray], np.ndarray],
    units: int,
    *,
    dims: int = 1,
    points: int | None = None,
    scale: float = 4.0,
    seed: int = 0,
) -> Construction:
    """A continuous function on `[0, 1]^N` by sigmoids with random weights, of which only the output layer is fitted.

    Cybenko's theorem states that such sums approximate the function to any precision. It does not show how to find one. Here,
    the hidden weights are drawn and the output weights solve least squares with a small ridge (Rahimi and Recht 2008), in
    float64.

    Args:
        function: points `[P, N]` to values `[P]`.
        units: hidden units.
        dims: N.
        points: number of random points at which `function` is evaluated; None: `8 * units` and at least 2,000.
        scale: standard deviation of the hidden weights.
        seed: of all draws.
    """
    if units < 1 or dims < 1 or not scale > 0:
        raise ValueError(f"units and dims are at least 1 and scale is above 0; got {units}, {dims}, {scale}")
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(dims, units)) * scale
    bias = -(rng.uniform(size=(units, dims)) @ kernel).diagonal()  # each sigmoid has its middle at a point of the cube
    x = rng.uniform(size=(points or max(2000, 8 * units), dims))
    hidden = np.concatenate([1 / (1 + np.exp(-(x @ kernel + bias))), np.ones((len(x), 1))], axis=1)
    ridge = 1e-7 * np.eye(units + 1)
    values = np.asarray(function(x), float)
    if values.shape != x.shape[:1]:
        raise ValueError(f"function gives one number for each point of {x.shape}, [{len(x)}]; got shape {values.shape}")
    target = np.concatenate([values, np.zeros(units + 1)])
    weights = np.linalg.lstsq(np.concatenate([hidden, ridge]), target, rcond=None)[0]
    return of_layers([(kernel, bias), (weights[:-1, None], weights[-1:])], "sigmoid")
