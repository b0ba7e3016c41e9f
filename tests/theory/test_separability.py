"""Cover's count against counting, and the perceptron against its bound."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets import theory


@pytest.mark.parametrize(("points", "dims"), [(1, 1), (3, 2), (5, 2), (5, 3), (6, 4)])
def test_covers_count_is_that_of_all_labellings(points, dims):
    x = np.random.default_rng(0).normal(size=(points, dims))
    separable = sum(
        theory.separating_plane(x, np.array(signs)) is not None for signs in itertools.product((-1, 1), repeat=points)
    )
    assert separable == theory.separable_labellings(points, dims)


def test_the_curve_falls_at_two_points_for_each_dim():
    fractions = [theory.separable_fraction(round(ratio * 20), 20) for ratio in (1, 1.5, 2, 2.5, 3)]
    np.testing.assert_allclose(fractions, [1, 0.969, 0.5, 0.076, 0.004], atol=1e-3)
    assert [theory.separable_fraction(2 * dims, dims) for dims in (1, 7, 500)] == [0.5] * 3
    assert theory.separable_fraction(1500, 1000) > 0.999999
    assert theory.separable_fraction(2500, 1000) < 1e-6


@pytest.mark.parametrize("ratio", [1.5, 2, 2.5])
def test_random_labellings_are_separable_as_often_as_the_curve_says(ratio):
    rng, dims, trials = np.random.default_rng(int(10 * ratio)), 10, 150
    points = round(ratio * dims)
    share = np.mean(
        [
            theory.separating_plane(rng.normal(size=(points, dims)), rng.choice([-1, 1], points)) is not None
            for _ in range(trials)
        ]
    )
    want = theory.separable_fraction(points, dims)
    assert abs(share - want) <= 3 * np.sqrt(max(want * (1 - want), 0.01) / trials)


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 60), st.integers(1, 5), st.floats(0.05, 0.5), st.integers(0, 1000))
def test_the_perceptron_ends_within_novikoffs_bound(count, dims, margin, seed):
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=dims)
    direction /= np.linalg.norm(direction)
    x = rng.normal(size=(count, dims))
    signs = np.where(x @ direction >= 0, 1.0, -1.0)
    x += margin * signs[:, None] * direction  # now the margin is at least that
    weights, updates, separated = theory.perceptron(x, signs)
    assert separated
    assert (signs * (x @ weights) > 0).all()
    assert updates <= theory.perceptron_bound(x, signs, direction)


def test_on_xor_the_perceptron_never_ends():
    x = np.c_[theory.bits(2), np.ones(4)]
    signs = np.array([-1, 1, 1, -1])
    _, updates, separated = theory.perceptron(x, signs, most_updates=5000)
    assert (updates, separated) == (5000, False)
    assert theory.separating_plane(x, signs) is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: theory.separable_labellings(0, 1), "at least 1, got 0"),
        (lambda: theory.perceptron(np.ones((2, 1)), [0, 1]), "a sign -1 or 1"),
        (lambda: theory.perceptron_bound(np.ones((2, 1)), [-1, 1], np.ones(1)), "weights that separate"),
    ],
)
def test_invalid_labels_are_refused_with_the_reason(make, said):
    with pytest.raises(ValueError, match=said):
        make()
