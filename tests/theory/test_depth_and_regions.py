"""Depth separation, and linear regions: exact counts against the theorems and against dense sampling."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets import theory


@pytest.mark.parametrize("depth", [1, 5, 10])
def test_tents_fold_twice_as_often_with_each_layer(depth):
    network = theory.tent(depth)
    x = np.arange(2**depth * 4 + 1) / (2**depth * 4)
    np.testing.assert_array_equal(network(x[:, None])[:, 0], theory.tent_values(x, depth))
    assert network.units() == 2 * depth
    pieces = theory.pieces_1d(network)
    assert len(pieces) - 1 == 2**depth
    np.testing.assert_allclose(pieces, np.arange(2**depth + 1) / 2**depth, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 40), st.integers(0, 1000))
def test_a_shallow_network_has_at_most_one_more_piece_than_units(units, seed):
    network = theory.initialised([units], 1, seed=seed, biases=1.0)
    pieces = theory.pieces_1d(network, low=-100, high=100)
    assert len(pieces) - 1 <= units + 1
    # Biases and weights are drawn, so all kinks differ; each that lies inside is found.
    kernel, bias = theory.layers_of(network)[0]
    kinks = np.sort((-bias / kernel[0])[np.abs(bias / kernel[0]) < 100])
    np.testing.assert_allclose(pieces[1:-1], kinks, rtol=1e-9)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=3), st.integers(0, 1000))
def test_pieces_of_a_deep_network_are_those_of_its_slopes(widths, seed):
    network = theory.initialised(widths, 1, seed=seed, biases=0.5)
    ends = theory.pieces_1d(network, low=-2, high=2)
    layers = theory.layers_of(network)

    def value(x):
        for number, (kernel, bias) in enumerate(layers):
            x = (np.maximum(x, 0) if number else x) @ kernel + bias
        return x[:, 0]

    # Linear between neighbouring ends: the middle is the mean, and the quarter, too.
    for share in (0.5, 0.25):
        inner = (1 - share) * ends[:-1] + share * ends[1:]
        want = (1 - share) * value(ends[:-1, None]) + share * value(ends[1:, None])
        np.testing.assert_allclose(value(inner[:, None]), want, atol=1e-9)
    # And each end is a kink.
    slopes = np.diff(value(ends[:, None])) / np.diff(ends)
    assert (np.abs(np.diff(slopes)) > 1e-9).all()


@pytest.mark.parametrize(("depth", "units"), [(6, 8), (8, 64)])
def test_no_shallow_network_follows_a_deep_tent(depth, units):
    x = ((np.arange(2**14) + 0.5) / 2**14)[:, None]
    tent = theory.tent_values(x[:, 0], depth)
    bound = theory.least_error(depth, units + 1)
    assert bound >= 1 / 64
    error = np.abs(np.asarray(theory.shallow_fit(depth, units)(x)[:, 0]) - tent).mean()
    assert error >= bound
    assert np.abs(np.asarray(theory.tent(depth)(x)[:, 0]) - tent).max() < 1e-3


def test_with_enough_units_a_shallow_network_follows_and_the_bound_is_void():
    x = ((np.arange(2**12) + 0.5) / 2**12)[:, None]
    fit = theory.shallow_fit(4, 16)
    assert np.abs(np.asarray(fit(x)[:, 0]) - theory.tent_values(x[:, 0], 4)).mean() < 1e-3
    assert theory.least_error(4, 17) == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(1, 200), st.integers(0, 1000))
def test_the_bound_of_the_tent_holds_for_any_function_of_few_pieces(depth, pieces, seed):
    # The best that pieces constant on their intervals can do, and random ones, stay above the bound.
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.uniform(size=pieces - 1))
    x = (np.arange(2**13) + 0.5) / 2**13
    tent = theory.tent_values(x, depth)
    which = np.searchsorted(ends, x)
    medians = np.array([np.median(tent[which == k]) if (which == k).any() else 0 for k in range(pieces)])
    assert np.abs(medians[which] - tent).mean() >= theory.least_error(depth, pieces) - 1e-9


@pytest.mark.parametrize(("planes", "dims", "count"), [(8, 2, 37), (10, 3, 176)])
def test_hyperplanes_in_general_position_have_as_many_regions_as_zaslavsky_says(planes, dims, count):
    assert theory.arrangement_regions(planes, dims) == count
    network = theory.initialised([planes], dims, seed=0, biases=1.0)
    found = theory.linear_regions(network, low=-1000, high=1000)
    assert len(found) == count
    # Each centre has the pattern of its region, all patterns differ, and sampling does not find them all.
    kernel, bias = theory.layers_of(network)[0]
    patterns = {region.pattern for region in found}
    assert len(patterns) == count
    centres = np.array([region.centre for region in found])
    assert {tuple(row) for row in (centres @ kernel + bias > 0).tolist()} == patterns
    sampled = {tuple(row) for row in np.random.default_rng(0).uniform(-5, 5, (2000, dims)) @ kernel + bias > 0}
    assert sampled < patterns


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 7), st.integers(1, 3), st.integers(0, 100))
def test_arrangements_drawn_at_random(planes, dims, seed):
    network = theory.initialised([planes], dims, seed=seed, biases=1.0)
    found = theory.linear_regions(network, low=-1e4, high=1e4)
    assert len(found) == theory.arrangement_regions(planes, dims)


@pytest.mark.parametrize("widths", [(3, 3, 3)])
def test_regions_of_a_deep_network_are_all_that_dense_sampling_finds(widths):
    network = theory.initialised(widths, 2, seed=1, biases=0.5)
    found = {region.pattern: region for region in theory.linear_regions(network, low=-3, high=3)}
    layers = theory.layers_of(network)[:-1]

    def patterns(x):
        active = []
        for kernel, bias in layers:
            x = x @ kernel + bias
            active.append(x > 0)
            x = np.maximum(x, 0)
        return np.concatenate(active, axis=1)

    side = np.linspace(-3, 3, 400)
    sampled = {tuple(row) for row in patterns(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)).tolist()}
    assert sampled <= found.keys()
    for pattern, region in found.items():
        assert tuple(patterns(region.centre[None])[0].tolist()) == pattern
        assert (region.normals @ region.centre <= region.offsets).all()
    assert len(found) <= theory.most_regions(widths, 2)


def test_the_maximum_grows_exponentially_with_depth_and_a_random_network_is_far_below_it():
    # Montufar: with 4 units a layer, every further layer multiplies what some network reaches by 4.
    reached = [theory.reached_regions([4] * depth, 2) for depth in (1, 2, 3, 4)]
    assert reached == [11, 44, 176, 704]
    for depth in (1, 2, 3, 4):
        assert reached[depth - 1] <= theory.most_regions([4] * depth, 2)
    assert theory.most_regions([7], 3) == theory.arrangement_regions(7, 3)
    # Width alone is polynomial: twice the width, about 2^d times the regions.
    ratio = theory.arrangement_regions(200, 3) / theory.arrangement_regions(100, 3)
    assert ratio == pytest.approx(2**3, rel=0.02)
    widths = (6, 6, 6)  # 18 units
    random = theory.linear_regions(theory.initialised(widths, 2, seed=0), low=-20, high=20)
    assert theory.reached_regions(widths, 2) > 10 * len(random)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6))
def test_zaslavskys_sum_obeys_its_recursion(planes, dims):
    # A further plane in general position is cut by the others into the regions of a dim less, and splits as many.
    further = theory.arrangement_regions(planes + 1, dims)
    cut = theory.arrangement_regions(planes, dims - 1) if dims > 1 else 1
    assert further == theory.arrangement_regions(planes, dims) + cut
    if planes <= dims:
        assert theory.arrangement_regions(planes, dims) == 2**planes
    assert theory.arrangement_regions(planes, dims) <= (math.e * planes / dims) ** dims + 2**dims


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: theory.tent(0), "at least 1; got 0"),
        (lambda: theory.least_error(0, 1), "at least 1, got 0"),
        (lambda: theory.shallow_fit(3, 0), "units is at least 1"),
        (lambda: theory.pieces_1d(theory.initialised([2], 2, seed=0)), "one input"),
        (lambda: theory.pieces_1d(theory.xor()), "counted for relu"),
        (lambda: theory.linear_regions(theory.tent(1), low=1, high=0), "low is below high"),
        (lambda: theory.arrangement_regions(0, 2), "planes is at least 1, got 0"),
        (lambda: theory.reached_regions([2, 2], 3), "at least as wide as the 3 inputs"),
        (lambda: theory.most_regions([2, 0], 3), "widths\\[1\\] is at least 1"),
    ],
)
def test_networks_without_linear_regions_are_refused_with_the_reason(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_half_space_system_without_an_inside_has_no_ball():
    normals = np.array([[1.0], [-1.0]])
    assert theory.largest_ball(normals, np.array([0.0, -1.0])) is None
    np.testing.assert_allclose(theory.largest_ball(normals, np.array([1.0, 0.0])), [0.5])
