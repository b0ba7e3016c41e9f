"""The focal loss and logit adjustment by their equations, and what they do for rare classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace

import jaxnets
from jaxnets.core.errors import DataError
from jaxnets.data import from_arrays
from jaxnets.models import MLP
from jaxnets.optim import Adam
from jaxnets.tasks import AdjustedLogits, Classification, Focal, Imbalanced
from jaxnets.tasks.imbalanced import class_prior, focal_loss
from jaxnets.tasks.losses import cross_entropy

LOGITS = jnp.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-30.0, 40.0, 3.0], [60.0, 0.0, 0.0]])
LABELS = jnp.array([0, 2, 0, 0])


@pytest.mark.smoke
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_the_focal_loss_is_its_equation(gamma):
    wide = np.asarray(LOGITS, np.float64)
    log_p = (wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))[np.arange(4), LABELS]
    wanted = -((1 - np.exp(log_p)) ** gamma) * log_p
    # A probability of 1 - 1e-26 rounds to 1, where the power is of the least number instead of 0.
    np.testing.assert_allclose(focal_loss(LOGITS, LABELS, gamma=gamma), wanted, rtol=2e-6, atol=1e-12)
    gradient = jax.grad(lambda logits: focal_loss(logits, LABELS, gamma=gamma).sum())(LOGITS)
    assert jnp.isfinite(gradient).all()


def test_gamma_0_and_tau_0_are_the_cross_entropy():
    plain = cross_entropy(LOGITS, LABELS)
    np.testing.assert_array_equal(focal_loss(LOGITS, LABELS, gamma=0.0), plain)
    batch = {"targets": LABELS}
    np.testing.assert_array_equal(AdjustedLogits((0.5, 0.3, 0.2), tau=0.0)(LOGITS, batch), plain)
    np.testing.assert_array_equal(Focal(0.0)(LOGITS, batch), plain)


def test_adjusted_logits_are_the_pairwise_margins_of_the_paper():
    prior, tau = np.array([0.7, 0.2, 0.1]), 1.5
    wide = np.asarray(LOGITS, np.float64)
    # Equation 11: log(1 + sum over the other classes of (prior' / prior)^tau exp(logit' - logit)).
    own = np.arange(4), np.asarray(LABELS)
    ratios = (prior[None, :] / prior[LABELS][:, None]) ** tau * np.exp(wide - wide[own][:, None])
    ratios[own] = 0
    got = AdjustedLogits(tuple(prior), tau=tau)(LOGITS, {"targets": LABELS})
    np.testing.assert_allclose(got, np.log1p(ratios.sum(axis=1)), rtol=2e-6, atol=1e-6)


@pytest.fixture(scope="module")
def rare():
    """Two overlapping classes, one of them with 3 % of the examples; both alike in the test."""
    rng = np.random.default_rng(0)

    def draw(count, share):
        y = (rng.random(count) < share).astype(int)
        return (rng.normal(size=(count, 2)) + 1.5 * y[:, None]).astype(np.float32), y

    return from_arrays(*draw(3000, 0.03), test=draw(2000, 0.5), name="rare", standardize=False)


@pytest.mark.slow
def test_rare_classes_are_found_and_the_counts_are_the_prior(rare, tmp_path):
    options = {"steps": 300, "batch_size": 64, "optimizer": Adam(learning_rate=0.05), "progress": "none"}
    plain = jaxnets.fit(Imbalanced(model=MLP(widths=()), tau=0.0), rare, **options)
    task = Imbalanced(model=MLP(widths=()))
    run = jaxnets.fit(task, rare, run_dir=tmp_path / "run", **options)
    scores = run.evaluate()
    assert plain.evaluate()["mean_recall"] < 0.65
    # The best separator of two such Gaussians is right with probability Phi(1.5 / sqrt(2)) = .856.
    assert scores["mean_recall"] > 0.84
    assert run.parts.task.headline == "mean_recall"
    counted = np.asarray(run.state.model_state["labels"]["counts"])
    seen = sum(
        np.bincount(rare.train["targets"][run.parts.feed._order.rows(step)[0]], minlength=2) for step in range(300)
    )
    np.testing.assert_array_equal(counted, seen + 1)
    again = jaxnets.open_run(tmp_path / "run", dataset=rare)
    assert again.evaluate() == scores
    hit = np.asarray(run.predict(rare.test["inputs"])) == rare.test["targets"]
    recalls = [hit[rare.test["targets"] == label].mean() for label in (0, 1)]
    assert scores["mean_recall"] == pytest.approx(np.mean(recalls), abs=1e-6)


def test_a_given_prior_is_used_and_the_task_with_neither_is_the_usual_one(rare):
    prior = class_prior(rare.train["targets"], 2)
    batch = {"inputs": rare.train["inputs"][:50], "targets": rare.train["targets"][:50], "mask": jnp.ones(50)}
    task = Imbalanced(model=MLP(widths=()), prior=prior).bind(rare.card)
    variables, key = task.init(jax.random.key(0), batch), jax.random.key(1)
    logits = task.outputs(variables, batch)
    wanted = AdjustedLogits(prior)(logits, batch).mean()
    np.testing.assert_allclose(task.loss(variables, batch, key, True)[0].value, wanted, rtol=1e-6)
    usual = Classification(model=task.model)
    plain = replace(task, tau=0.0).loss(variables, batch, key, True)[0]
    assert float(plain.value) == float(usual.loss(variables, batch, key, True)[0].value)


def test_mistakes_are_named(rare):
    with pytest.raises(ValueError, match="prior holds a share above 0"):
        AdjustedLogits((1.0, 0.0))
    with pytest.raises(ValueError, match="gamma is at least 0, got -1"):
        Focal(-1.0)
    with pytest.raises(ValueError, match="set one to 0"):
        Imbalanced(model=MLP(), gamma=1.0, label_smoothing=0.1)
    with pytest.raises(DataError, match="prior has 3 shares, but 'rare' has 2 classes"):
        Imbalanced(model=MLP(), prior=(0.5, 0.25, 0.25)).bind(rare.card)
    with pytest.raises(DataError, match="each of 3 classes needs one"):
        class_prior([0, 0, 1], 3)


def test_the_loss_works_with_any_classifier_and_is_saved_by_its_class_name(blobs, tmp_path):
    run = jaxnets.fit(MLP(widths=(16,)), blobs, loss=Focal(1.0), steps=40, progress="none", run_dir=tmp_path / "run")
    again = jaxnets.open_run(tmp_path / "run", dataset=blobs)
    np.testing.assert_array_equal(again.predict(blobs.test["inputs"]), run.predict(blobs.test["inputs"]))
