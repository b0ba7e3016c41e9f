"""Calibration, conformal sets and foreign examples: known temperatures, coverage by counting, scikit-learn's areas."""

import numpy as np
import pytest

from jaxnets import diagnose
from jaxnets.core.errors import UsageError


def drawn(count, temperature, seed=0):
    """Logits whose labels are drawn from their softmax, then multiplied by a temperature that has to be found."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(count, 5))
    shares = diagnose.softmax(logits)
    labels = (rng.uniform(size=count)[:, None] > shares.cumsum(axis=1)).sum(axis=1)
    return logits * temperature, labels


def test_the_calibration_error_by_hand():
    probabilities = np.asarray([[0.9, 0.1], [0.8, 0.2], [0.45, 0.55], [0.4, 0.6]])
    found = diagnose.reliability(probabilities, np.asarray([0, 1, 1, 1]), bins=2)
    # All four are in (.5, 1]: mean confidence .7125, three are right.
    assert found.examples.tolist() == [0, 4]
    assert found.error == pytest.approx(abs(0.75 - 0.7125))
    found = diagnose.reliability(probabilities, np.asarray([0, 1, 1, 1]), bins=10)
    # Bins end at .6, .8, .9: .55 and .6 right, .8 wrong, .9 right.
    assert found.error == pytest.approx((2 * abs(1 - 0.575) + 0.8 + 0.1) / 4)
    assert np.isnan(found.accuracy[0])


@pytest.mark.smoke
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_and_the_error_falls(temperature):
    logits, labels = drawn(20_000, temperature)
    found = diagnose.best_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.03)  # the standard error is about 1 %
    fresh, truth = drawn(20_000, temperature, seed=1)
    before = diagnose.reliability(diagnose.softmax(fresh), truth).error
    after = diagnose.reliability(diagnose.softmax(fresh, found), truth).error
    assert after < 0.015
    if temperature != 1:
        assert after < before / 5


def test_the_temperature_is_a_minimum_of_the_likelihood():
    logits, labels = drawn(300, 2.0)

    def nll(temperature):
        return -np.log(diagnose.softmax(logits, temperature)[np.arange(300), labels]).mean()

    found = diagnose.best_temperature(logits, labels)
    assert nll(found) < min(nll(found * 1.01), nll(found / 1.01))


def test_conformal_sets_hold_the_truth_as_often_as_promised():
    """Over many draws of calibration and new examples, and no more often than 1 / (n + 1) above it."""
    hits = []
    for seed in range(300):
        logits, labels = drawn(60, 4.0, seed)  # badly calibrated on purpose
        shares = diagnose.softmax(logits)
        threshold = diagnose.conformal_threshold(shares[:50], labels[:50], alpha=0.2)
        sets = diagnose.conformal_sets(shares[50:], threshold)
        hits.append(sets[np.arange(10), labels[50:]].mean())
    error = np.std(hits) / len(hits) ** 0.5
    assert 0.8 - 3 * error < np.mean(hits) < 0.8 + 1 / 51 + 3 * error


def test_a_conformal_threshold_by_counting():
    """Nine examples: at alpha = .2 the second smallest, below 1 / 10 nothing may be left out."""
    shares = np.linspace(0.1, 0.9, 9)
    probabilities = np.stack([shares, 1 - shares], axis=1)
    truth = np.zeros(9, int)
    assert diagnose.conformal_threshold(probabilities, truth, alpha=0.2) == pytest.approx(0.2)
    assert diagnose.conformal_threshold(probabilities, truth, alpha=0.1) == pytest.approx(0.1)
    assert diagnose.conformal_threshold(probabilities, truth, alpha=0.05) == 0
    assert diagnose.conformal_sets(probabilities, 0.0).all()
    with pytest.raises(UsageError, match=r"in \(0, 1\); got 1"):
        diagnose.conformal_threshold(probabilities, truth, alpha=1)


@pytest.mark.slow
def test_the_area_is_that_of_scikit_learn_with_ties():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 8, 50), rng.integers(3, 10, 30)
    wanted = metrics.roc_auc_score([0] * 50 + [1] * 30, np.concatenate([low, high]))
    assert diagnose.auroc(low, high) == pytest.approx(wanted, rel=1e-12)


def test_the_area_by_counting_pairs():
    low, high = np.asarray([1.0, 2.0, 2.0]), np.asarray([2.0, 3.0])
    assert diagnose.auroc(low, high) == pytest.approx((1 + 0.5 + 0.5 + 3) / 6)
    with pytest.raises(UsageError, match="got 0 and 2"):
        diagnose.auroc([], high)


def test_out_of_distribution_scores_by_their_formulas():
    logits = np.asarray([[10.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1000.0, 0.0, 0.0]])
    by_softmax = diagnose.foreignness(logits, by="softmax")
    np.testing.assert_allclose(by_softmax[1], -1 / 3)
    energy = diagnose.foreignness(logits, temperature=2.0)
    np.testing.assert_allclose(energy[:2], -2 * np.log(np.exp(logits[:2] / 2).sum(axis=1)))
    assert energy[2] == pytest.approx(-1000)  # without overflow
    with pytest.raises(UsageError, match="temperature is above 0"):
        diagnose.foreignness(logits, temperature=0)


def test_labels_that_fit_no_class_are_refused():
    with pytest.raises(UsageError, match="class numbers from 0 to 1, got"):
        diagnose.reliability(np.ones((2, 2)) / 2, np.asarray([0, 2]))
    with pytest.raises(UsageError, match=r"got \(2, 2\) and \(3,\)"):
        diagnose.best_temperature(np.ones((2, 2)), np.zeros(3, int))
    with pytest.raises(UsageError, match="bins is at least 1"):
        diagnose.reliability(np.ones((2, 2)) / 2, np.asarray([0, 1]), bins=0)
