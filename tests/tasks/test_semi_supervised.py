"""FixMatch by its equations; data of which some labels are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace

import jaxnets
from jaxnets.core.errors import DataError
from jaxnets.data import Digits, FewLabels, few_labels, with_unlabelled
from jaxnets.models import MLP
from jaxnets.optim import Adam
from jaxnets.tasks import Classification, FixMatch, Views

SAME, HALF = Views(noise=0.0), Views(function=lambda key, x: x / 2)


@pytest.mark.smoke
def test_the_loss_is_that_of_the_paper(blobs):
    data = few_labels(blobs, 5)
    task = FixMatch(model=MLP(widths=()), weak=SAME, strong=HALF, threshold=0.5, weight=3.0).bind(blobs.card)
    batch = {name: jnp.asarray(array[:40]) for name, array in data.train.items()}
    batch |= {"mask": (jnp.arange(40) < 33) * 1.0, "index": jnp.arange(40)}
    variables = task.init(jax.random.key(0), batch)
    loss, aux = task.loss(variables, batch, jax.random.key(1), True)

    def logs(scale):
        z = np.asarray(task.model.apply(variables, batch["inputs"] * scale), np.float64)[:33]
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    weak, strong = logs(1.0), logs(0.5)
    known, labels = np.asarray(batch["labelled"])[:33] > 0, np.asarray(batch["targets"])[:33]
    assert 0 < known.sum() < 33
    supervised = -weak[known, labels[known]].mean()
    sure, guess = np.exp(weak).max(axis=1) >= 0.5, weak.argmax(axis=1)
    assert 0 < sure.sum() < 33
    consistency = -(sure * strong[np.arange(33), guess]).sum() / 33
    assert float(loss.value) == pytest.approx(supervised + 3 * consistency, rel=1e-5)
    assert float(aux.metrics["confident"].value) == pytest.approx(sure.mean())


def test_hidden_labels_are_not_used_and_without_the_second_term_it_is_the_usual_loss(blobs):
    data = few_labels(blobs, 5)
    task = FixMatch(model=MLP(widths=()), weak=SAME, strong=HALF, weight=0.0).bind(blobs.card)
    batch = {name: jnp.asarray(array[:40]) for name, array in data.train.items()}
    batch |= {"mask": jnp.ones(40), "index": jnp.arange(40)}
    variables, key = task.init(jax.random.key(0), batch), jax.random.key(1)
    usual = Classification(model=task.model).loss(variables, {**batch, "mask": batch["labelled"] * 1.0}, key, True)
    got = task.loss(variables, batch, key, True)[0].value
    assert float(got) == pytest.approx(float(usual[0].value), rel=1e-6)
    others = jnp.where(batch["labelled"] > 0, batch["targets"], (batch["targets"] + 1) % 4)
    both = replace(task, weight=1.0)
    same = [both.loss(variables, {**batch, "targets": y}, key, True)[0].value for y in (batch["targets"], others)]
    assert float(same[0]) == float(same[1])
    gradient = jax.grad(lambda v: both.loss(v, {**batch, "labelled": 0 * batch["labelled"]}, key, True)[0].sum)(
        variables
    )
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_labels_are_hidden_by_number_of_each_class_and_marked_where_they_are_missing(blobs):
    data = few_labels(blobs, 3, seed=1)
    known = data.train["labelled"] > 0
    assert np.bincount(blobs.train["targets"][known]).tolist() == [3] * 4
    np.testing.assert_array_equal(data.train["targets"][known], blobs.train["targets"][known])
    assert not data.train["targets"][~known].any()  # the task cannot see them by accident
    assert data.test["labelled"].all()
    assert FewLabels(Digits(), each=2).open().train["labelled"].sum() == 20
    x, y = np.zeros((6, 2)), np.array([0, -1, 1, -1, -1, 1])
    marked = with_unlabelled(x, y, test=(x[:2], [0, 1]))
    assert marked.train["labelled"].tolist() == [1, 0, 1, 0, 0, 1]
    assert len(marked.class_names) == 2
    with pytest.raises(DataError, match="300 of them cannot be labelled"):
        few_labels(blobs, 300)
    with pytest.raises(DataError, match="every label is -1"):
        with_unlabelled(x, y * 0 - 1, test=(x[:2], [0, 1]))
    with pytest.raises(DataError, match="needs test="):
        with_unlabelled(x, y)


@pytest.mark.slow
def test_a_run_predicts_without_the_mark_and_opens_again(blobs, tmp_path):
    data = few_labels(blobs, 10)
    task = FixMatch(model=MLP(widths=(16,)), weak=SAME, strong=Views(noise=0.3), threshold=0.9)
    options = {"optimizer": Adam(learning_rate=0.01), "steps": 150, "batch_size": 32, "progress": "none"}
    run = jaxnets.fit(task, data, run_dir=tmp_path / "run", **options)
    assert run.evaluate()["accuracy"] > 0.7  # four Gaussians that overlap little
    assert run.predict(blobs.test["inputs"][:3]).shape == (3,)
    assert jaxnets.open_run(tmp_path / "run", dataset=data).evaluate() == run.evaluate()
