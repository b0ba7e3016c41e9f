"""Each approximation keeps its bound, at sizes and functions drawn at random too."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnets
from jaxnets import theory
from jaxnets.data import from_arrays
from jaxnets.optim import Adam
from jaxnets.tasks import Regression


def wave(x):
    return 0.5 + 0.5 * np.sin(2 * np.pi * x)


CURVATURE, SLOPE = 2 * np.pi**2, np.pi  # max |f''| and max |f'| of the wave


def trigonometric(coefficients):
    """A function on [0, 1] with its largest possible first and second derivative."""
    orders = np.arange(1, len(coefficients) + 1)
    a = np.array(coefficients)

    def function(x):
        return np.sin(np.pi * np.asarray(x)[..., None] * orders) @ a

    return function, np.pi * np.abs(a) @ orders, np.pi**2 * np.abs(a) @ orders**2


FUNCTIONS = st.lists(st.floats(-1, 1), min_size=1, max_size=4).map(trigonometric)


@pytest.mark.parametrize("units", [4, 32, 128])
def test_relu_interpolation_is_within_its_bound_and_close_to_it(units):
    error = theory.largest_error(theory.relu_interpolation(wave, units), wave)
    bound = theory.interpolation_bound(CURVATURE, units)
    assert 0.6 * bound < error <= bound + 1e-6


def test_the_error_falls_with_the_square_of_the_width():
    errors = [theory.largest_error(theory.relu_interpolation(wave, units), wave) for units in (8, 64)]
    assert np.log(errors[0] / errors[1]) / np.log(8) == pytest.approx(2, abs=0.05)


@settings(max_examples=5, deadline=None)
@given(FUNCTIONS, st.integers(1, 60))
def test_relu_interpolation_of_functions_drawn_at_random(drawn, units):
    function, slope, curvature = drawn
    network = theory.relu_interpolation(function, units)
    error = theory.largest_error(network, function, points=2001)
    assert error <= min(theory.interpolation_bound(curvature, units), slope / (2 * units)) + 1e-5
    assert network.units() == units


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 50), st.floats(0.1, 1))
def test_a_function_that_is_only_continuous(units, power):
    # |x - 1/3|^p is Hoelder continuous: its modulus of continuity is h^p.
    def function(x):
        return np.abs(x - 1 / 3) ** power

    error = theory.largest_error(theory.relu_interpolation(function, units), function, points=2001)
    assert error <= (1 / units) ** power + 1e-6


@pytest.mark.parametrize("units", [16])
def test_the_slope_is_approximated_too(units):
    with jax.enable_x64(True):
        network = theory.relu_interpolation(wave, units)
        x = (np.arange(40 * units) + 0.5) / (40 * units)  # never at a kink
        slope = jax.vmap(jax.grad(lambda t: network.model.apply(network.variables, t[None, None])[0, 0]))(x)
    error = np.abs(np.asarray(slope) - np.pi * np.cos(2 * np.pi * x)).max()
    assert 0.8 * CURVATURE / (2 * units) < error <= CURVATURE / (2 * units)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=8, unique=True), st.integers(20, 400))
def test_an_open_set_up_to_a_length(ends, precision):
    places = sorted(ends)[: len(ends) // 2 * 2]
    intervals = [(a / 40, b / 40) for a, b in zip(places[::2], places[1::2], strict=True)]
    x = (np.arange(20_000) + 0.5) / 20_000
    inside = np.any([(a < x) & (x < b) for a, b in intervals], axis=0)
    above = np.asarray(theory.open_set(intervals, precision)(x[:, None])[:, 0]) > 0
    assert not (above & ~inside).any()
    assert (above != inside).mean() <= 2 / precision + 1e-3


@pytest.mark.smoke
@pytest.mark.parametrize("pieces", [2, 200])
def test_the_sigmoid_staircase_is_within_its_bound(pieces):
    error = theory.largest_error(theory.sigmoid_staircase(wave, pieces), wave)
    bound = theory.staircase_bound(SLOPE, pieces)
    assert 0.2 * bound < error <= bound + 2e-6
    assert bound == pytest.approx(SLOPE / (2 * pieces), rel=1e-3)


@settings(max_examples=5, deadline=None)
@given(FUNCTIONS, st.integers(2, 60), st.floats(2, 30))
def test_staircases_of_functions_and_steepness_drawn_at_random(drawn, pieces, steep):
    function, slope, _ = drawn
    network = theory.sigmoid_staircase(function, pieces, steepness=steep * pieces)
    error = theory.largest_error(network, function, points=2001)
    assert error <= theory.staircase_bound(slope, pieces, steepness=steep * pieces) + 1e-5


def surface(x):
    return np.sin(3 * x[:, 0]) * np.cos(2 * x[:, 1])


def test_random_features_in_two_dims_get_better_with_their_number():
    x = np.random.default_rng(9).uniform(size=(4000, 2))
    with jax.enable_x64(True):
        errors = [
            float(np.abs(np.asarray(theory.random_features(surface, units, dims=2)(x)[:, 0]) - surface(x)).max())
            for units in (32, 128)
        ]
    assert errors[0] < 2e-2
    assert errors[1] < 2e-4


def test_random_features_separate_a_disc_from_the_rest():
    def height(x):
        return 0.09 - np.square(x - 0.5).sum(axis=1)

    x = np.random.default_rng(5).uniform(size=(20_000, 2))
    network = theory.random_features(height, 128, dims=2)
    assert (network.fires(x) != (height(x) >= 0)).mean() < 0.01


@pytest.mark.parametrize("dims", [1, 100])
def test_a_function_of_one_direction_takes_as_many_units_in_any_dim(dims):
    direction = np.random.default_rng(dims).normal(size=dims)
    direction /= np.linalg.norm(direction)
    network = theory.ridge(np.sin, direction, 40, radius=2.0)
    along = np.random.default_rng(1).uniform(-2, 2, (500, 1))
    x = along * direction + project_out(np.random.default_rng(2).normal(size=(500, dims)), direction)
    error = np.abs(np.asarray(network(x)[:, 0]) - np.sin(along[:, 0])).max()
    assert error <= theory.interpolation_bound(1.0, 40, width=4.0) + 1e-5
    assert network.units() == 40


def project_out(x, direction):
    return x - (x @ direction)[:, None] * direction


def test_grids_and_neighbours_suffer_from_the_number_of_dims():
    cells = [theory.cells_needed(dims, error=0.1) for dims in (1, 2, 3, 4)]
    assert cells == [5, 8**2, 9**3, 10**4]
    # The centres do keep the error: the farthest point of a cell is a corner.
    assert np.sqrt(3) / (2 * 9) <= 0.1 < np.sqrt(3) / (2 * 8)
    near = [[theory.nearest_distance(dims, points) for points in (100, 1600)] for dims in (1, 2, 8)]
    rates = [np.log(a / b) / np.log(16) for a, b in near]
    np.testing.assert_allclose(rates, [1, 1 / 2, 1 / 8], rtol=0.25)
    assert near[2][1] > 30 * near[0][1]


@pytest.mark.slow
def test_an_interpolation_trains_further():
    x = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    model, variables = theory.relu_interpolation(wave, 8)
    data = from_arrays(x, wave(x[:, 0]).astype(np.float32), test=(x, wave(x[:, 0])), standardize=False)
    network = theory.Construction(model, variables)
    before = float(np.square(np.asarray(network(x)[:, 0]) - wave(x[:, 0])).mean())
    task = Regression(model=model, target_mean=0.0, target_std=1.0)  # the construction has the targets' own unit
    options = {"initial": variables, "optimizer": Adam(learning_rate=1e-3), "batch_size": 64, "progress": "none"}
    run = jaxnets.fit(task, data, steps=300, **options)
    assert run.evaluate()["mse"] < 0.5 * before


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: theory.relu_interpolation(wave, 0), "units is at least 1"),
        (lambda: theory.relu_interpolation(lambda x: 1.0, 3), "one finite number for each"),
        (lambda: theory.relu_interpolation(lambda x: x / 0, 3), "one finite number"),
        (lambda: theory.ridge(wave, np.ones((2, 2)), 3, radius=1.0), "one number for each input"),
        (lambda: theory.open_set([(0, 0.5), (0.4, 1)], 10), "disjoint intervals"),
        (lambda: theory.sigmoid_staircase(wave, 1), "at least 2 pieces"),
        (lambda: theory.random_features(surface, 0), "units and dims are at least 1"),
        (lambda: theory.random_features(wave, 5), "one number for each point"),
        (lambda: theory.cells_needed(0, error=0.1), "dims is at least 1"),
        (lambda: theory.nearest_distance(1, 0), "at least 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_invalid_functions_are_refused_with_the_reason(make, said):
    with pytest.raises(ValueError, match=said):
        make()
