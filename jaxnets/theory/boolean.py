"""Boolean functions and tables as networks of step units.

Shapes: `B` batch, `N` inputs, `R` rows of a table.
"""

from collections.abc import Sequence

import numpy as np

from jaxnets.theory.construction import Construction, of_layers


def xor() -> Construction:
    """XOR by two hidden units. Their lines `-1 + 2 x1 + 2 x2 = 0` and `3 - 2 x1 - 2 x2 = 0` enclose the true corners.

    No single neuron computes it (Minsky and Papert 1969): it would need `w0 < 0`, `w0 + w1 >= 0`, `w0 + w2 >= 0` and
    `w0 + w1 + w2 < 0`, and the middle two add up to a contradiction.
    """
    return of_layers([([[2, -2], [2, -2]], [-1, 3]), ([[2], [2]], [-3])], "step")


def boolean_function(table: Sequence[int] | np.ndarray) -> Construction:
    """Any function of `N` bits by two layers: a unit for each true row, and an `or` of them.

    The unit of a row `v` has weights 1 where `v` is 1 and -1 where it is 0, and the bias `-|v|`. Its potential is 0 at `v`,
    and at most -1 elsewhere. It has as many hidden units as true rows (one that never fires if there is none). Parity has
    `2^(N - 1)` true rows; there, other networks are exponentially smaller.

    Args:
        table: values 0 and 1 for the rows `0 ... 2^N - 1`; the first input is the highest bit.
    """
    values = np.asarray(table)
    inputs = int(values.size).bit_length() - 1
    if values.ndim != 1 or values.size != 2**inputs or inputs < 1 or not np.isin(values, (0, 1)).all():
        raise ValueError(f"a table has 2^N values of 0 and 1, with N >= 1; got shape {values.shape}")
    true = bits(inputs)[values == 1]
    if not len(true):
        return of_layers([(np.zeros((inputs, 1)), [-1]), ([[1]], [-1])], "step")
    return of_layers([((2 * true - 1).T, -true.sum(axis=1)), (np.ones((len(true), 1)), [-1])], "step")


def parity(inputs: int) -> Construction:
    """Parity of `N` bits by `N` step units: unit `k` fires where at least `k` inputs are 1, and their signs alternate.

    So parity does not need depth; only a construction with a unit for each true row (`boolean_function`) is exponential.
    """
    if inputs < 1:
        raise ValueError(f"parity has at least 1 input, got {inputs}")
    signs = np.where(np.arange(inputs) % 2 == 0, 2.0, -2.0)
    return of_layers([(np.ones((inputs, inputs)), -np.arange(1.0, inputs + 1)), (signs[:, None], [-1])], "step")


def bits(inputs: int) -> np.ndarray:
    """All words of `N` bits, float64 `[2^N, N]`, counted upwards; the first column is the highest bit."""
    return (np.arange(2**inputs)[:, None] >> np.arange(inputs - 1, -1, -1) & 1).astype(float)


def lookup(points: np.ndarray, values: np.ndarray) -> Construction:
    """Any table on distinct points, exactly: a staircase along a direction in which no two points coincide.

    With `R` points it has `R - 1` step units. Unit `i` switches from value `i` to value `i + 1` in the middle between the two
    neighbours. Whole numbers come out exactly; others up to the rounding of a sum of `R` numbers. Its values at other points
    are arbitrary.

    Args:
        points: `[R, N]`, distinct.
        values: `[R]` or `[R, C]`.

    Raises:
        ValueError: the numbers of points and values differ, or two points are equal.
    """
    points, values = np.asarray(points, float), np.asarray(values, float)
    values = values[:, None] if values.ndim == 1 else values
    if points.ndim != 2 or values.ndim != 2 or len(points) != len(values) or len(points) < 2:
        raise ValueError(f"give at least two points [R, N] and a value for each; got {points.shape} and {values.shape}")
    if len(np.unique(points, axis=0)) < len(points):
        raise ValueError("two points are equal; leave one of them out, since a function has one value at a point")
    direction = _direction(points)
    position = points @ direction
    order = np.argsort(position)
    position, values = position[order], values[order]
    middles = (position[1:] + position[:-1]) / 2
    kernel = np.repeat(direction[:, None], len(middles), axis=1)
    return of_layers([(kernel, -middles), (np.diff(values, axis=0), values[0])], "step")


def _direction(points: np.ndarray) -> np.ndarray:
    """Of 200 directions the one in which the two nearest points are farthest apart; all but finitely many keep them apart."""
    candidates = np.random.default_rng(0).normal(size=(200, points.shape[1]))
    if points.shape[1] == 1:
        candidates = np.ones((1, 1))
    gaps = np.diff(np.sort(candidates @ points.T, axis=1), axis=1).min(axis=1)
    best: np.ndarray = candidates[int(np.argmax(gaps / np.linalg.norm(candidates, axis=1)))]
    return best
