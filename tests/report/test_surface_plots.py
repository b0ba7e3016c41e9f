"""Plots of curvature and robustness: what is given is what is drawn."""

import numpy as np

from jaxnets.report import surface_plots
from jaxnets.report.plots import to_png


def test_lines_and_contours_are_those_of_the_numbers():
    at = np.linspace(-1, 1, 5)
    density = np.asarray([1e-12, 0.1, 1.0, 0.1, 0.0])
    (axis,) = surface_plots.spectrum(at, density).axes
    drawn = axis.lines[0].get_ydata()
    np.testing.assert_allclose(drawn, np.maximum(density, 1e-7))
    line = surface_plots.loss_slice(at, at**2).axes[0].lines[0]
    np.testing.assert_allclose(line.get_xydata(), np.stack([at, at**2], axis=1))
    plane = at[:, None] ** 2 + 5 * at[None, :] + 10
    figure = surface_plots.loss_slice(at, plane)
    assert figure.axes[0].get_xlabel() == "first direction"
    assert to_png(figure).startswith(b"\x89PNG")
    axis = surface_plots.curves({"a": at, "b": -at}, at=range(5), across="severity", up="accuracy").axes[0]
    assert [line.get_label() for line in axis.lines] == ["a", "b"]
    np.testing.assert_allclose(axis.lines[1].get_ydata(), -at)
