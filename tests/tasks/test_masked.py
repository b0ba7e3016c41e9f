"""Hidden patches: what the encoder sees, what the losses are, and how the follower moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace

import jaxnets
from jaxnets.core.errors import DataError
from jaxnets.data import Digits, from_arrays
from jaxnets.models import MLP, PatchPredictor
from jaxnets.optim import Adam
from jaxnets.tasks import JEPA, MaskedAutoencoder

MODEL = PatchPredictor(patch=2, width=8, layers=1, heads=2, predictor_width=8)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return from_arrays(rng.normal(size=(48, 4, 6, 2)).astype(np.float32), rng.integers(0, 3, 48), test=None)


@pytest.fixture(scope="module")
def batch(images):
    return {
        "inputs": jnp.asarray(images.train["inputs"][:5]),
        "targets": images.train["targets"][:5],
        "mask": jnp.ones(5),
        "index": jnp.arange(5),
    }


@pytest.mark.smoke
def test_the_loss_uses_only_hidden_patches_and_the_encoder_only_visible_ones(images, batch):
    task = MaskedAutoencoder(model=MODEL, hidden=0.5, targets="pixels").bind(images.card)
    variables, key = task.init(jax.random.key(0), batch), jax.random.key(1)
    visible, hidden = (np.asarray(a) for a in task.visible(batch, key))
    assert visible.shape == (5, 3)
    assert hidden.sum(axis=1).tolist() == [3] * 5
    assert all(not hidden[row, visible[row]].any() for row in range(5))
    assert len({tuple(row) for row in hidden}) > 1  # each example has its own
    predicted = np.asarray(task.predicted(variables, batch, jnp.asarray(visible)))
    # Patch number n is row n // 3 and column n % 3 of a grid of 2 x 3.
    x = np.asarray(batch["inputs"])
    each = []
    for row in range(5):
        errors = []
        for n in np.flatnonzero(hidden[row]):
            r, c = divmod(n, 3)
            errors.append(((predicted[row, n] - x[row, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].ravel()) ** 2).mean())
        each.append(np.mean(errors))
    got = task.loss(variables, batch, key, True)[0]
    assert float(got.value) == pytest.approx(np.mean(each), rel=1e-5)
    # Other pixels in the hidden patches change no prediction, other pixels in the visible ones do.
    mark = np.kron(hidden.reshape(5, 2, 3), np.ones((2, 2)))[..., None]
    same = task.predicted(variables, {**batch, "inputs": batch["inputs"] + 9 * mark}, jnp.asarray(visible))
    np.testing.assert_array_equal(same, predicted)
    other = task.predicted(variables, {**batch, "inputs": batch["inputs"] + 9 * (1 - mark)}, jnp.asarray(visible))
    assert (np.asarray(other) != predicted).any()


def test_every_patch_comes_back_to_its_place(images, batch):
    task = MaskedAutoencoder(model=MODEL, hidden=0.5).bind(images.card)
    variables = task.init(jax.random.key(0), batch)
    visible = task.visible(batch, jax.random.key(1))[0]
    turned = task.predicted(variables, batch, visible[:, ::-1])
    # The order in which the visible patches are named plays no part.
    np.testing.assert_allclose(turned, task.predicted(variables, batch, visible), atol=1e-5)


def test_the_follower_moves_by_its_momentum_and_gets_no_gradient(images, batch):
    task = JEPA(model=MODEL, hidden=0.5, momentum=0.75)
    options = {"optimizer": Adam(learning_rate=0.01), "batch_size": 8, "progress": "none", "steps": 1}
    run = jaxnets.fit(task, images, **options)
    begin, params = run.parts.fresh_state(), run.state.params["encoder"]
    follower = run.state.model_state["target"]["encoder"]
    for name, leaf in jax.tree_util.tree_leaves_with_path(follower):
        old, new = (dict(jax.tree_util.tree_leaves_with_path(tree))[name] for tree in (begin.params["encoder"], params))
        np.testing.assert_allclose(leaf, 0.75 * np.asarray(old) + 0.25 * np.asarray(new), atol=1e-7, err_msg=str(name))
        assert (np.asarray(old) != new).any(), name
    bound = run.parts.task

    def of_target(target):
        return bound.loss({"params": run.state.params, "target": target}, batch, jax.random.key(0), True)[0].sum

    gradient = jax.grad(of_target)(run.state.model_state["target"])
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))


def test_the_targets_of_jepa_are_normalised_features(images, batch):
    task = JEPA(model=MODEL, hidden=0.5).bind(images.card)
    variables, key = task.init(jax.random.key(0), batch), jax.random.key(1)
    visible, hidden = task.visible(batch, key)
    features = np.asarray(task.model.apply({"params": variables["params"]}, batch["inputs"], method="encode"))
    wanted = (features - features.mean(-1, keepdims=True)) / np.sqrt(features.var(-1, keepdims=True) + 1e-6)
    predicted = np.asarray(task.predicted({"params": variables["params"]}, batch, visible))
    each = ((predicted - wanted) ** 2).mean(-1)
    wanted_loss = (each * np.asarray(hidden)).sum(1) / np.asarray(hidden).sum(1)
    got = task.loss(variables, batch, key, True)[0].value
    assert float(got) == pytest.approx(wanted_loss.mean(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MaskedAutoencoder, JEPA])
def test_the_loss_on_held_out_digits_falls_and_the_run_opens_again(kind, tmp_path):
    digits = Digits().open()
    task = kind(model=replace(MODEL, width=32), hidden=0.5)
    options = {"optimizer": Adam(learning_rate=3e-3), "batch_size": 64, "progress": "none"}
    run = jaxnets.fit(task, digits, steps=100, run_dir=tmp_path / "run", **options)
    scores = run.evaluate()
    assert scores["loss"] < 0.8 * jaxnets.fit(task, digits, steps=1, **options).evaluate()["loss"]
    assert {"knn", "probe", "spread"} < scores.keys()
    assert jaxnets.open_run(tmp_path / "run", dataset=digits).evaluate() == scores


def test_mistakes_are_named(images):
    with pytest.raises(DataError, match="trains a PatchPredictor, got MLP"):
        JEPA(model=MLP())
    with pytest.raises(ValueError, match=r"hidden is a share in \(0, 1\), got 1"):
        MaskedAutoencoder(model=MODEL, hidden=1.0)
    with pytest.raises(ValueError, match="not divisible by heads 2"):
        replace(MODEL, width=9)
    task = MaskedAutoencoder(model=replace(MODEL, patch=4)).bind(images.card)
    with pytest.raises(ValueError, match="patches of 4x4 pixels"):
        jax.eval_shape(lambda: task.init(jax.random.key(0), {"inputs": jnp.ones((2, 8, 6, 2)), "mask": jnp.ones(2)}))
