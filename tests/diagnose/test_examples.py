"""The training examples behind a prediction, and points of the plane."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import diagnose
from jaxnets.core.errors import UsageError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(9, 4)).astype(np.float32), RNG.normal(size=9).astype(np.float32)
AX, AY = RNG.normal(size=(3, 4)).astype(np.float32), RNG.normal(size=3).astype(np.float32)


def squares(params, examples):
    x, y = examples
    return jnp.square(x @ params["w"] - y) / 2


@pytest.mark.smoke
def test_tracin_of_a_linear_regression_is_the_product_by_hand():
    checkpoints = [{"w": jnp.asarray(RNG.normal(size=4), jnp.float32)} for _ in range(3)]
    rates = [0.1, 0.05, 0.02]
    found = diagnose.influence(squares, checkpoints, rates, (X, Y), (AX, AY))
    want = np.zeros((3, 9))
    for point, rate in zip(checkpoints, rates, strict=True):
        w = np.asarray(point["w"])
        # The gradient of (x w - y)^2 / 2 is (x w - y) x.
        want += rate * (AX @ w - AY)[:, None] * (X @ w - Y)[None] * (AX @ X.T)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_tracin_is_the_change_of_the_loss_by_a_small_step():
    params = {"w": jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32), "v": jnp.asarray(RNG.normal(size=5), jnp.float32)}

    def losses(params, examples):
        x, y = examples
        return jnp.square(jnp.tanh(x @ params["w"]) @ params["v"] - y)

    rate = 1e-4
    found = diagnose.influence(losses, [params], [rate], (X, Y), (AX, AY))
    before = np.asarray(losses(params, (AX, AY)), np.float64)
    for row in range(4):
        slope = jax.grad(lambda params, row=row: losses(params, (X[row : row + 1], Y[row : row + 1])).sum())(params)
        stepped = jax.tree.map(lambda p, g: p - rate * g, params, slope)
        fall = before - np.asarray(losses(stepped, (AX, AY)), np.float64)
        # The second order is below 1% of it at this rate; float32 rounds the losses, of size 10, at 1e-6.
        np.testing.assert_allclose(found[:, row], fall, rtol=0.02, atol=5e-6)
    assert np.abs(found).max() > 1e-3


def test_influence_refuses_what_does_not_fit():
    with pytest.raises(UsageError, match="2 rates and 1 checkpoints"):
        diagnose.influence(squares, [{"w": jnp.ones(4)}], [0.1, 0.1], (X, Y), (AX, AY))
    with pytest.raises(UsageError, match="one loss for each of 9"):
        diagnose.influence(lambda p, e: squares(p, e).mean(), [{"w": jnp.ones(4)}], [0.1], (X, Y), (AX, AY))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nearest_examples_are_those_of_all_distances(metric):
    norms = [np.linalg.norm(points, axis=1) for points in (AX, X)]
    cosine = 1 - AX @ X.T / np.outer(*norms)
    all_distances = cosine if metric == "cosine" else np.linalg.norm(AX[:, None] - X[None], axis=2)
    rows, distances = diagnose.nearest_examples(AX, X, 4, metric=metric)
    np.testing.assert_array_equal(rows, np.argsort(all_distances, axis=1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(all_distances, axis=1)[:, :4], atol=1e-5)
    with pytest.raises(UsageError, match="from 1 to 9"):
        diagnose.nearest_examples(AX, X, 10)


def test_principal_components_are_eigenvectors_of_the_covariance():
    points = RNG.normal(size=(50, 5)) @ np.diag([5.0, 3.0, 1.0, 0.5, 0.1]) + 7
    found = diagnose.principal_components(points, 3)
    values, vectors = np.linalg.eigh(np.cov(points.T))
    np.testing.assert_allclose(found.shares, values[::-1][:3] / values.sum(), rtol=1e-8)
    np.testing.assert_allclose(np.abs(found.directions @ vectors[:, ::-1][:, :3]), np.eye(3), atol=1e-8)
    np.testing.assert_allclose(found.points, (points - points.mean(axis=0, keepdims=True)) @ found.directions.T)
    assert (found.directions[np.arange(3), np.abs(found.directions).argmax(axis=1)] > 0).all()
    np.testing.assert_array_equal(diagnose.in_plane(points), found.points[:, :2])


def test_tsne_without_scikit_learn_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UsageError, match="pip install scikit-learn"):
        diagnose.in_plane(X, "tsne")


@pytest.mark.slow
def test_tsne_keeps_clusters_together():
    pytest.importorskip("sklearn")
    labels = np.repeat(np.arange(3), 20)
    points = np.eye(3)[labels] * 20 + RNG.normal(size=(60, 3))
    found = diagnose.in_plane(points, "tsne", perplexity=10)
    nearest = diagnose.nearest_examples(found, found, 2, metric="euclidean").rows[:, 1]
    assert (labels[nearest] == labels).mean() > 0.95
    with pytest.raises(UsageError, match="perplexity"):
        diagnose.in_plane(points[:5], "tsne")
