"""Bias and variance where they are known; a law that was planted is found."""

import math

import numpy as np
import pytest

from jaxnets.core.errors import UsageError
from jaxnets.evidence import bias_variance, fit_law

SIZES = [50, 100, 200, 400, 800, 1600]
PLANTED = (0.1, 2.0, 0.5)


def test_the_parts_sum_to_the_error_exactly():
    rng = np.random.default_rng(0)
    predictions, targets = rng.normal(size=(4, 9, 3)), rng.normal(size=(9, 3))
    weights = rng.uniform(size=9)
    found = bias_variance(predictions, targets, weights)
    # The definition, written out.
    error = sum(
        weights[n] / weights.sum() * sum((predictions[s, n, k] - targets[n, k]) ** 2 for k in range(3)) / 4
        for s in range(4)
        for n in range(9)
    )
    assert found.error == pytest.approx(error, rel=1e-12)
    assert found.bias + found.variance == pytest.approx(error, rel=1e-12)
    assert found.of_mean + found.variance * 3 / 4 == pytest.approx(error, rel=1e-12)


def test_a_constant_predictor_has_bias_only():
    targets = np.arange(5.0)[:, None]
    found = bias_variance(np.full((3, 5, 1), 2.0), targets)
    assert found.variance == 0
    assert found.bias == found.of_mean == 2.0  # (4 + 1 + 0 + 1 + 4) / 5


def least_squares(rng, runs, *, examples=30, inputs=5, noise=0.7):
    """Predictions of linear regressions on designs of their own, and noisy targets: `[runs, N, 1]`, `[N, 1]`, and the noise."""
    weights, test = rng.normal(size=inputs), rng.normal(size=(40, inputs))
    predictions = []
    for _ in range(runs):
        x = rng.normal(size=(examples, inputs))
        y = x @ weights + noise * rng.normal(size=examples)
        predictions.append(test @ np.linalg.lstsq(x, y, rcond=None)[0])
    chance = noise * rng.normal(size=40)
    # For normal designs the mean of (X' X)^-1 is I / (examples - inputs - 1), so the variance at x is noise^2 |x|^2 times that.
    variance = noise**2 * np.square(test).sum(axis=1).mean() / (examples - inputs - 1)
    return np.stack(predictions)[..., None], (test @ weights + chance)[:, None], np.square(chance).mean(), variance


def test_linear_regression_has_the_variance_of_its_theory_and_no_bias():
    predictions, targets, noise, variance = least_squares(np.random.default_rng(1), 1500)
    found = bias_variance(predictions, targets)
    assert found.variance == pytest.approx(variance, rel=0.05)
    assert found.bias == pytest.approx(noise, rel=0.02)  # what is left is the noise of the targets


def test_neither_part_depends_on_the_number_of_runs():
    """With pairs of runs the mean of the variances is that of many; without the correction it would be half of it."""
    predictions, targets, noise, variance = least_squares(np.random.default_rng(2), 1500)
    pairs = [bias_variance(predictions[n : n + 2], targets) for n in range(0, 1500, 2)]
    assert np.mean([one.variance for one in pairs]) == pytest.approx(variance, rel=0.06)
    assert np.mean([one.bias for one in pairs]) == pytest.approx(noise, rel=0.03)


def test_runs_and_shapes_are_checked():
    with pytest.raises(UsageError, match="two runs or more"):
        bias_variance(np.zeros((1, 2, 3)), np.zeros((2, 3)))
    with pytest.raises(UsageError, match=r"predictions are \[runs, 2, 3\]"):
        bias_variance(np.zeros((2, 3, 3)), np.zeros((2, 3)))


def planted(rng, seeds, spread, constants=PLANTED):
    floor, scale, exponent = constants
    law = floor + scale * np.array(SIZES, float) ** -exponent
    return law * np.exp(spread * rng.normal(size=(seeds, len(SIZES))))


def test_a_planted_law_is_found():
    exact = fit_law(SIZES, planted(np.random.default_rng(0), 1, 0.0))
    assert exact.constants == pytest.approx(PLANTED, rel=1e-4)
    assert exact.at(10_000) == pytest.approx(0.12, rel=1e-4)
    assert exact.needed(0.12) == pytest.approx(10_000, rel=1e-3)
    assert math.isinf(exact.needed(0.05))
    assert "one seed gives no interval" in str(exact)
    noisy = fit_law(SIZES[::-1], planted(np.random.default_rng(0), 5, 0.03)[:, ::-1], draws=100)
    assert noisy.sizes == tuple(SIZES)
    for number, true in enumerate(PLANTED):
        low, high = noisy.interval(lambda constants, n=number: constants[n])
        assert low < noisy.constants[number] < high
        assert low < true < high
    low, high = noisy.at_interval(16_000)
    assert low < PLANTED[0] + PLANTED[1] * 16_000**-0.5 < high
    assert not noisy.notes()


def test_a_pure_power_has_no_floor():
    found = fit_law(SIZES, planted(np.random.default_rng(0), 2, 0.0, (0.0, 3.0, 0.25)), draws=5)
    assert found.constants == pytest.approx((0, 3.0, 0.25), rel=1e-6)


def test_warnings_about_an_unreliable_law():
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match="three sizes or more"):
        fit_law([1, 2], np.ones((3, 2)))
    with pytest.raises(UsageError, match="losses above 0"):
        fit_law([1, 2, 3], np.array([[1.0, 0.5, -0.1]]))
    with pytest.raises(UsageError, match="ended at every size"):
        fit_law([1, 2, 3], np.empty((0, 3)))
    peak = np.array([1.0, 0.6, 0.9, 1.6, 0.7, 0.5]) * np.exp(0.01 * rng.normal(size=(4, 6)))
    assert "the fit is poor: at" in str(fit_law(SIZES, peak, draws=20))
    flat = np.exp(0.1 * rng.normal(size=(5, 6)))
    says = fit_law(SIZES, flat, draws=100)
    assert any("contains 0" in note or "does not fall" in note for note in says.notes())
    assert "leave nothing to check" in str(fit_law([1, 2, 4], np.array([[1.0, 0.7, 0.6]])))
    rising = fit_law(SIZES, np.array([[1.0, 1.1, 1.3, 1.6, 2.0, 2.6]]))
    assert "does not fall" in str(rising)
    assert math.isnan(rising.needed(0.9))


@pytest.mark.slow
def test_intervals_contain_the_true_value_about_as_often_as_their_level():
    hits = np.zeros(3)
    for number in range(40):
        found = fit_law(SIZES, planted(np.random.default_rng(number), 5, 0.05), draws=100)
        ends = [found.interval(lambda constants, n=n: constants[n]) for n in range(3)]
        hits += [low <= true <= high for (low, high), true in zip(ends, PLANTED, strict=True)]
    assert (hits >= 34).all(), hits
