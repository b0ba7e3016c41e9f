"""Pictures of theorems as curves: error against width with the bound, Cover's count, double descent; and a tape over time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxnets.theory.construction import Construction
from jaxnets.theory.double_descent import double_descent_errors
from jaxnets.theory.interpolation import Function, interpolation_bound, relu_interpolation
from jaxnets.theory.picture_style import COLOURS, INK, Panels
from jaxnets.theory.separability import separable_fraction, separating_plane
from jaxnets.theory.sigmoids import sigmoid_staircase, staircase_bound
from jaxnets.theory.turing import TuringMachine

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def largest_error(network: Construction, function: Function, *, points: int = 20_001) -> float:
    """The largest `|F(x) - f(x)|` at equally spaced points of [0, 1]."""
    x = np.linspace(0, 1, points)
    return float(np.abs(np.asarray(network(x[:, None]))[:, 0] - function(x)).max())


def approximation_error(
    function: Function, *, lipschitz: float, second_derivative: float, widths: Sequence[int] = (4, 8, 16, 32, 64, 128)
) -> "Figure":
    """The error of a function on [0, 1] against the width, log-log: ReLU interpolation and sigmoid staircase, with their
    bounds.

    Args:
        function: f.
        lipschitz: `max |f'|`.
        second_derivative: `max |f''|`.
        widths: pieces.
    """
    with Panels(size=(4.6, 3.2)) as panels:
        (axes,) = panels.axes
        relu = [largest_error(relu_interpolation(function, width), function) for width in widths]
        stairs = [largest_error(sigmoid_staircase(function, width), function) for width in widths]
        axes.loglog(widths, stairs, "o", color=COLOURS[1], label="sigmoid staircase")
        axes.loglog(
            widths, [staircase_bound(lipschitz, w) for w in widths], "-", color=COLOURS[1], label="L / 2n + tail"
        )
        axes.loglog(widths, relu, "o", color=COLOURS[0], label="ReLU interpolation")
        bounds = [interpolation_bound(second_derivative, w) for w in widths]
        axes.loglog(widths, bounds, "-", color=COLOURS[0], label="max |f''| / 8n²")
        axes.set(xlabel="pieces n", ylabel="largest error", title="points: measured; lines: bounds")
        axes.set_xticks(widths, [str(width) for width in widths], minor=False)
        axes.set_xticks([], minor=True)
        axes.grid(True)
        axes.legend(fontsize=8)
    return panels.figure


def cover_curve(dims: Sequence[int] = (5, 20, 100), *, trials: int = 0, seed: int = 0) -> "Figure":
    """The share of labellings that a hyperplane separates, against points per dim; the fall at 2 gets steeper with the dim.

    Args:
        dims: one curve for each.
        trials: random labellings for each of some measured points of the second curve, decided by linear programs; 0 for none.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    with Panels(size=(4.6, 3.2)) as panels:
        (axes,) = panels.axes
        for number, dim in enumerate(dims):
            counts = np.arange(1, 4 * dim + 1)
            shares = [separable_fraction(int(count), dim) for count in counts]
            axes.plot(counts / dim, shares, color=COLOURS[number % len(COLOURS)], label=f"d = {dim}")
        if trials:
            dim = dims[min(1, len(dims) - 1)]
            ratios = np.array([1, 1.5, 2, 2.5, 3])
            measured = [
                np.mean([separating_plane(*_labelled(rng, round(r * dim), dim)) is not None for _ in range(trials)])
                for r in ratios
            ]
            axes.plot(ratios, measured, "o", color=INK, label=f"measured, d = {dim}")
        axes.set(xlabel="points per dim", ylabel="share of labellings", title="separable by a hyperplane (Cover)")
        axes.axvline(2, color=INK, lw=0.8, ls=":")
        axes.legend(fontsize=8)
    return panels.figure


def double_descent_curve(
    features: Sequence[int] = (10, 30, 60, 80, 100, 120, 160, 300, 1000), *, trials: int = 10
) -> "Figure":
    """The test error of least squares on random features against their number, with the peak where they fit 100 examples
    exactly.
    """
    errors = double_descent_errors(features, trials=trials)
    with Panels(size=(4.6, 3.2)) as panels:
        (axes,) = panels.axes
        axes.loglog(features, errors, "o-", color=COLOURS[0])
        axes.axvline(100, color=INK, lw=0.8, ls=":")
        axes.set(xlabel="features (fitted weights)", ylabel="test error (median)", title="100 examples: double descent")
        axes.grid(True)
    return panels.figure


def tape(machine: TuringMachine, *, word: str = "", budget: int = 1000) -> "Figure":
    """The tape of a machine over time: time runs down, blue cells are 1, dots are the head."""
    history = machine.tapes(word=word, budget=budget)
    places = [place for bits, head in history for place in (*bits, head)]
    first, last = min(places), max(places)
    picture = np.zeros((len(history), last - first + 1))
    for time, (bits, _) in enumerate(history):
        for place, bit in bits.items():
            picture[time, place - first] = bit
    with Panels(size=(3.2, 4.2)) as panels:
        (axes,) = panels.axes
        from matplotlib.colors import ListedColormap
        from matplotlib.ticker import MaxNLocator

        extent = (first - 0.5, last + 0.5, len(history) - 0.5, -0.5)
        colours = ListedColormap(["#7d859020", COLOURS[0]])
        axes.imshow(picture, cmap=colours, aspect="auto", interpolation="nearest", extent=extent, vmin=0, vmax=1)
        heads = [head for _, head in history]
        axes.plot(heads, range(len(history)), ".", color=COLOURS[1], markersize=4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        ones = int(picture[-1].sum())
        axes.set(
            xlabel="place on the tape",
            ylabel="step",
            title=f"{machine.states} states: {len(history) - 1} steps, {ones} ones",
        )
    return panels.figure


def _labelled(rng: np.random.Generator, points: int, dims: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(points, dims)), rng.choice([-1.0, 1.0], points)
