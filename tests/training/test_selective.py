"""Selective backpropagation: the gradient of the examples with the largest loss, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnets
from jaxnets.core.errors import UsageError
from jaxnets.data import Ring, from_arrays
from jaxnets.models import MLP
from jaxnets.parallel import MeshShape
from jaxnets.steps.recipe import Recipe
from jaxnets.steps.selective import hardest
from jaxnets.tasks import Adversarial, Classification
from jaxnets.tasks.losses import cross_entropy
from jaxnets.training.initial import create_state


def setup(**fields):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 4)).astype(np.float32), rng.integers(0, 3, 24)
    task = Classification(model=MLP(widths=(5,))).bind(from_arrays(x, y).card)
    batch = {"inputs": jnp.asarray(x), "targets": jnp.asarray(y), "mask": jnp.ones(24), "index": jnp.arange(24)}
    recipe = Recipe(optimizer=optax.sgd(1.0), **fields)
    return task, batch, recipe, create_state(task, recipe, batch)


@pytest.mark.smoke
def test_the_update_is_that_of_the_hardest_examples_alone():
    task, batch, recipe, state = setup(selective=0.25)
    new, metrics = jax.jit(task.make_step(recipe))(state, batch)
    losses = cross_entropy(task.outputs(state.variables, batch), batch["targets"])
    rows = np.argsort(-np.asarray(losses))[:6]

    def mean(params):
        logits = task.outputs({"params": params}, batch)
        return cross_entropy(logits, batch["targets"])[rows].mean()

    wanted = jax.tree.map(lambda p, g: p - g, state.params, jax.grad(mean)(state.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), wanted, new.params)
    np.testing.assert_allclose(metrics["loss"].value, losses[rows].mean(), rtol=1e-6)


def test_a_masked_row_is_never_chosen_before_a_real_one():
    task, batch, _, state = setup()
    losses = cross_entropy(task.outputs(state.variables, batch), batch["targets"])
    worst = int(np.argmax(losses))
    loss = hardest(task.loss, 1 / 24)
    mean, _ = loss(state.variables, batch, jax.random.key(0), True)
    np.testing.assert_allclose(mean.sum, losses[worst], rtol=1e-6)
    masked = {**batch, "mask": batch["mask"].at[worst].set(0)}
    mean, _ = loss(state.variables, masked, jax.random.key(0), True)
    np.testing.assert_allclose(mean.sum, np.sort(losses)[-2], rtol=1e-6)


def test_all_of_a_batch_is_the_plain_step():
    task, batch, recipe, state = setup()
    plain = jax.jit(task.make_step(recipe))(state, batch)[0]
    whole = hardest(task.loss, 1.0)(state.variables, batch, jax.random.key(0), True)[0]
    np.testing.assert_allclose(
        whole.value, task.loss(state.variables, batch, jax.random.key(0), True)[0].value, rtol=1e-6
    )
    assert int(plain.step) == 1


def test_eight_devices_choose_the_same_examples_as_one():
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    options = {"steps": 4, "batch_size": 32, "selective": 0.5, "progress": "none"}
    one, eight = (
        jaxnets.fit(MLP(widths=(4,)), (x, (x[:, 0] > 0).astype(int)), mesh=MeshShape(data=n), **options) for n in (1, 8)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one.params, eight.params)


def test_invalid_shares_and_tasks_are_refused():
    x = np.zeros((8, 2), np.float32)
    with pytest.raises(UsageError, match=r"selective is a share of the batch in \(0, 1\], got 0"):
        jaxnets.fit(MLP(), (x, x[:, 0]), selective=0.0)
    game = Adversarial(model=MLP(widths=(4,)), critic=MLP(widths=(4,)), latent=2)
    with pytest.raises(UsageError, match="selective chooses examples by one loss"):
        jaxnets.fit(game, Ring().open(), selective=0.5, steps=1)
