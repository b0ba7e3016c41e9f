"""Pictures: each is drawn by one call, shows what it says, and leaves matplotlib as it was."""

import numpy as np
import pytest

from jaxnets import theory

matplotlib = pytest.importorskip("matplotlib")


def wave(x):
    return 0.5 + 0.5 * np.sin(2 * np.pi * x)


PICTURES = {
    "decisions": lambda: theory.decision_boundary(theory.xor(), points=theory.bits(2), labels=np.array([0, 1, 1, 0])),
    "folding": lambda: theory.folding(3),
    "regions": lambda: theory.regions_in_the_plane(theory.initialised([4, 3], 2, seed=0)),
    "error": lambda: theory.approximation_error(wave, lipschitz=np.pi, second_derivative=2 * np.pi**2, widths=(4, 8)),
    "cover": lambda: theory.cover_curve((2, 5), trials=5),
    "descent": lambda: theory.double_descent_curve((10, 100, 300), trials=2),
    "tape": lambda: theory.tape(theory.BUSY_BEAVERS[3]),
    "bent": lambda: theory.bent_space(theory.xor()),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_have_no_background_and_are_readable_on_white_and_on_black(name, tmp_path):
    before = dict(matplotlib.rcParams)
    figure = PICTURES[name]()
    theory.save(figure, tmp_path / "picture.png", dpi=40)
    assert dict(matplotlib.rcParams) == before
    pixels = matplotlib.image.imread(tmp_path / "picture.png")
    assert pixels.shape[2] == 4
    assert pixels[0, 0, 3] == 0  # the corner is transparent
    assert (pixels[..., 3] > 0.5).mean() > 0.005
    for axes in figure.axes:
        assert axes.get_title()
        for text in (axes.title, axes.xaxis.label, *axes.get_xticklabels()):
            assert contrast(matplotlib.colors.to_rgb(text.get_color()), (1, 1, 1)) > 3
            assert contrast(matplotlib.colors.to_rgb(text.get_color()), matplotlib.colors.to_rgb("#0d1117")) > 3


def test_a_notebook_shows_a_picture_without_pyplot():
    assert theory.folding(1)._repr_png_().startswith(b"\x89PNG")


def contrast(a, b):
    """The contrast ratio of two colours (WCAG 2); 3 is the least for large text and graphics."""

    def luminance(colour):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_the_polygons_of_the_regions_fill_the_square():
    found = theory.linear_regions(theory.initialised([5, 4], 2, seed=2, biases=0.3))
    areas = []
    for region in found:
        corners = theory.polygon(region, -1, 1)
        x, y = corners.T
        areas.append(np.abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)
        assert (corners @ region.normals.T <= region.offsets + 1e-9).all()
    assert min(areas) > 0
    assert sum(areas) == pytest.approx(4, rel=1e-9)


def test_the_tape_has_a_row_for_each_step_and_the_ones_of_the_champion():
    (axes,) = theory.tape(theory.BUSY_BEAVERS[4]).axes
    picture = axes.images[0].get_array()
    assert picture.shape[0] == 108
    assert picture[-1].sum() == 13
    assert axes.get_title() == "4 states: 107 steps, 13 ones"


def test_the_points_of_the_error_picture_are_below_their_lines():
    (axes,) = PICTURES["error"]().axes
    stairs, stair_bound, relu, relu_bound = (np.asarray(line.get_ydata()) for line in axes.lines[:4])
    assert (stairs <= stair_bound + 1e-6).all()
    assert (relu <= relu_bound + 1e-6).all()


def test_a_context_that_fails_restores_the_settings():
    before = dict(matplotlib.rcParams)
    with pytest.raises(RuntimeError), theory.Panels():
        raise RuntimeError
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: theory.decision_boundary(theory.gate("and", 3)), "2 inputs, got one with 3"),
        (lambda: theory.bent_space(theory.initialised([3], 2, seed=0)), "two units can be drawn, got widths"),
    ],
)
def test_networks_without_two_inputs_are_refused_with_the_reason(make, said):
    with pytest.raises(ValueError, match=said):
        make()
