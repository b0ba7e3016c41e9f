"""Curricula and several heads: which examples count when, weights by their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace

import jaxnets
from jaxnets.core.errors import DataError
from jaxnets.data import Balanced, Digits, Glyphs, Ranked, balanced, with_difficulty, with_targets
from jaxnets.data.sources.balanced import balanced_rows
from jaxnets.models import MLP
from jaxnets.optim import SGD, Adam, Constant
from jaxnets.steps.recipe import Recipe
from jaxnets.tasks import Classification, Curriculum, Head, MultiTask
from jaxnets.training.initial import create_state


@pytest.mark.smoke
def test_the_share_grows_as_the_paper_says():
    task = Curriculum(model=MLP(), inner=Classification(model=MLP()), begin=0.1, until=400)
    shares = [float(task.share(step)) for step in (0, 100, 400, 9999)]
    np.testing.assert_allclose(shares, [0.1, np.sqrt(0.01 + 0.99 / 4), 1, 1], rtol=1e-6)
    linear = replace(task, growth="linear")
    np.testing.assert_allclose([float(linear.share(step)) for step in (0, 100, 400)], [0.1, 0.325, 1], rtol=1e-6)


def test_a_step_is_that_of_the_easy_examples_alone(blobs):
    scores = np.random.default_rng(0).normal(size=203)
    data = with_difficulty(blobs, scores)
    np.testing.assert_array_equal(np.argsort(data.train["difficulty"]), np.argsort(scores))
    assert data.train["difficulty"].max() == 1
    inner = Classification(model=MLP(widths=(), outputs=4))
    task = Curriculum(model=inner.model, inner=inner, begin=0.3, until=10, growth="linear")
    recipe = Recipe(optimizer=SGD(learning_rate=0.1, schedule=Constant()).build(10), seed=0)
    batch = {name: jnp.asarray(array[:32]) for name, array in data.train.items()}
    batch |= {"mask": jnp.ones(32), "index": jnp.arange(32)}
    state = create_state(task, recipe, batch)
    easy = data.train["difficulty"][:32] <= 0.3
    alone = {name: array[np.flatnonzero(easy)] for name, array in batch.items()}
    got, _ = task.make_step(recipe)(state, batch)
    wanted, _ = inner.make_step(recipe)(state, alone)
    for one, other in zip(jax.tree.leaves(got.params), jax.tree.leaves(wanted.params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    whole, metrics = task.make_step(recipe)(replace(state, step=jnp.int32(10)), batch)
    assert float(metrics["loss"].weight) == 32
    assert int(whole.guard["left_out"]) == 0


def test_difficulty_from_lengths_and_mistakes(blobs):
    glyphs = Ranked(Glyphs(train=20, test=4), by="deviation").open()
    order = np.argsort(glyphs.train["difficulty"])
    assert (np.diff(glyphs.train["inputs"].reshape(20, -1).std(axis=1)[order]) >= 0).all()
    with pytest.raises(DataError, match="one finite number for each of the 203"):
        with_difficulty(blobs, np.zeros(5))
    with pytest.raises(ValueError, match=r"begin is a share in \(0, 1\]"):
        Curriculum(model=MLP(), inner=Classification(model=MLP()), begin=0.0)


@pytest.fixture(scope="module")
def two_targets(blobs):
    """The class, and the first number of the input, which is known exactly."""
    first = [split["inputs"][:, 0] for split in (blobs.train, blobs.test)]
    return with_targets(blobs, first=tuple(first))


@pytest.mark.parametrize("weighing", ["fixed", "uncertainty"])
def test_the_loss_is_the_weighted_sum(two_targets, weighing):
    heads = (Head(weight=2.0), Head("first", weight=0.5))
    task = MultiTask(model=MLP(widths=()), heads=heads, weighing=weighing, features=8).bind(two_targets.card)
    assert task.heads[0].classes == 4
    batch = {name: jnp.asarray(array[:16]) for name, array in two_targets.train.items()}
    batch |= {"mask": jnp.ones(16), "index": jnp.arange(16)}
    variables = task.init(jax.random.key(0), batch)
    loss, aux = task.loss(variables, batch, jax.random.key(1), True)
    outputs = np.asarray(task.outputs(variables, batch), np.float64)
    logs = outputs[:, :4] - np.log(np.exp(outputs[:, :4]).sum(axis=1, keepdims=True))
    labels, first = (np.asarray(batch[name]) for name in ("targets", "first"))
    terms = -logs[np.arange(16), labels].mean(), ((outputs[:, 4] - first) ** 2).mean()
    np.testing.assert_allclose([aux.metrics[f"{n}_loss"].value for n in ("targets", "first")], terms, rtol=1e-5)
    if weighing == "fixed":
        assert float(loss.value) == pytest.approx(2 * terms[0] + 0.5 * terms[1], rel=1e-5)
        return
    # At log variances 0: L_1 + L_2 / 2; and the gradient of each is what makes exp(-s) L = 1/2, or 1 over numbers.
    assert float(loss.value) == pytest.approx(terms[0] + terms[1] / 2, rel=1e-5)

    def of(log_variances):
        params = {**variables["params"], "log_variances": log_variances}
        return task.loss({"params": params}, batch, jax.random.key(1), True)[0].value

    gradient = jax.grad(of)({"targets": jnp.float32(0.4), "first": jnp.float32(-0.3)})
    assert float(gradient["targets"]) == pytest.approx(0.5 - np.exp(-0.4) * terms[0], rel=1e-4)
    assert float(gradient["first"]) == pytest.approx(0.5 - np.exp(0.3) * terms[1] / 2, rel=1e-4)


@pytest.mark.slow
def test_both_heads_learn_and_the_first_predicts(two_targets, blobs, tmp_path):
    task = MultiTask(model=MLP(widths=(32,)), heads=(Head(), Head("first")), weighing="uncertainty")
    options = {"optimizer": Adam(learning_rate=0.01), "steps": 200, "batch_size": 32, "progress": "none"}
    run = jaxnets.fit(task, two_targets, run_dir=tmp_path / "run", **options)
    scores = run.evaluate()
    assert scores["targets_accuracy"] > 0.9
    assert scores["first_error"] < 0.2 * np.var(blobs.test["inputs"][:, 0])
    said = run.predict(blobs.test["inputs"])
    assert (np.asarray(said) == blobs.test["targets"]).mean() == pytest.approx(scores["targets_accuracy"], abs=1e-6)
    assert jaxnets.open_run(tmp_path / "run", dataset=two_targets).evaluate() == scores
    harder = with_difficulty(blobs, np.arange(203))
    inner = Classification(model=MLP(widths=(16,)))
    run = jaxnets.fit(Curriculum(model=inner.model, inner=inner, until=50), harder, **options)
    assert run.evaluate()["accuracy"] > 0.8


def test_mistakes_about_heads_are_named(two_targets, blobs):
    with pytest.raises(ValueError, match="all of them different"):
        MultiTask(model=MLP(), heads=(Head(), Head()))
    with pytest.raises(ValueError, match="0 or at least 2 classes"):
        Head(classes=1)
    with pytest.raises(DataError, match="has an array 'inputs' already"):
        with_targets(blobs, inputs=(np.zeros(203), np.zeros(61)))
    task = MultiTask(model=MLP(widths=()), heads=(Head(), Head("second"))).bind(two_targets.card)
    batch = {"inputs": jnp.zeros((2, 12)), "targets": jnp.zeros(2, jnp.int32), "mask": jnp.ones(2)}
    with pytest.raises(DataError, match="has no array 'second'"):
        task.check_outputs({}, batch, two_targets.card)


@pytest.mark.parametrize(("power", "counts"), [(1.0, [90, 90, 90]), (0.5, [90, 52, 16]), (0.0, [90, 30, 3])])
def test_rare_classes_are_repeated(power, counts):
    labels = np.repeat([0, 1, 2], [90, 30, 3])
    rows = balanced_rows(labels, power=power)
    assert np.bincount(labels[rows]).tolist() == counts
    for label in (0, 1, 2):
        each = np.bincount(rows, minlength=123)[labels == label]
        assert np.ptp(each) <= 1
        assert each.min() >= 1


def test_no_example_is_in_training_and_validation(blobs):
    data = balanced(blobs, seed=1)
    known = {row.tobytes() for row in data.train["inputs"]}
    assert not any(row.tobytes() in known for row in data.validation["inputs"])
    assert len(known) + len(data.validation["inputs"]) == 203
    assert np.ptp(np.bincount(data.train["targets"])) == 0
    assert Balanced(Digits(), validation=0.0).open().validation is None
    with pytest.raises(DataError, match="power is in"):
        balanced(blobs, power=2.0)
