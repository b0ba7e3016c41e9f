"""Weights in bfloat16: rounding that is right on average, a run that goes on where nearest rounding stands still."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnets
from jaxnets.core.errors import UsageError
from jaxnets.models import MLP
from jaxnets.optim import EMA, SGD, Adam, Constant, StochasticRounding
from jaxnets.steps.precision import Precision

KEPT = Precision(weights="bfloat16")


def stepped(optimizer, params, gradients, steps):
    update = optimizer.build(steps)

    def step(carry, _):
        params, state = carry
        updates, state = update.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda p: jax.lax.scan(step, (p, update.init(p)), None, length=steps)[0][0])(params)


@pytest.mark.smoke
def test_an_update_that_nearest_rounding_loses_is_kept_on_average():
    """500 steps of a 64th of the distance between neighbours: on average all of it, and the number is a bfloat16."""
    params = {"w": jnp.ones((10_000,), jnp.bfloat16)}
    rate = 2.0**-7 / 64  # above 1 neighbours are 2^-7 apart
    gradients = {"w": -jnp.ones((10_000,), jnp.bfloat16)}
    near = stepped(SGD(rate, momentum=0.0, schedule=Constant()), params, gradients, 1)
    np.testing.assert_array_equal(near["w"].astype(jnp.float32), 1)
    got = stepped(StochasticRounding(SGD(rate, momentum=0.0, schedule=Constant())), params, gradients, 500)["w"]
    assert got.dtype == jnp.bfloat16
    moved = np.asarray(got, np.float64) - 1
    wanted = 500 * rate
    # A step is a draw with variance below distance^2 / 64, 500 of them, 10,000 weights; five deviations of the mean.
    assert abs(moved.mean() - wanted) < 5 * 2.0**-7 * np.sqrt(500 / 64 / 10_000)
    assert len(np.unique(moved)) > 3


def test_draws_differ_between_steps_and_weights_and_follow_the_step_of_the_run():
    transformation = StochasticRounding(SGD(2.0**-9, momentum=0.0, schedule=Constant())).build(10)
    params = {"a": jnp.ones((4096,), jnp.bfloat16), "b": jnp.ones((4096,), jnp.bfloat16)}
    gradients = jax.tree.map(jnp.ones_like, params)
    state = transformation.init(params)
    first, after = transformation.update(gradients, state, params)
    again, _ = transformation.update(gradients, state, params)
    second, _ = transformation.update(gradients, after, params)
    np.testing.assert_array_equal(first["a"], again["a"])
    assert 0.2 < float((first["a"] != first["b"]).mean()) < 0.8
    assert 0.2 < float((first["a"] != second["a"]).mean()) < 0.8


def test_float32_weights_are_updated_as_by_the_optimizer():
    params, gradients = {"w": jnp.arange(5.0)}, {"w": jnp.ones(5)}
    for got, wanted in zip(
        *(jax.tree.leaves(stepped(o, params, gradients, 3)) for o in (StochasticRounding(Adam(0.1)), Adam(0.1))),
        strict=True,
    ):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.slow
def test_a_run_with_bfloat16_weights_is_better_than_with_nearest_rounding(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype(np.float32)
    y = np.tanh(x @ rng.normal(size=(8, 1)))
    adam, model, losses = Adam(2e-4, schedule=Constant()), MLP(widths=(64,)), {}
    for name, optimizer, precision in (("float32", adam, Precision()), ("random", StochasticRounding(adam), KEPT)):
        options = {
            "steps": 600,
            "batch_size": 64,
            "progress": "none",
            "precision": precision,
            "run_dir": tmp_path / name,
        }
        run = jaxnets.fit(model, (x, y), test=(x, y), optimizer=optimizer, **options)
        kept = {leaf.dtype for leaf in jax.tree.leaves(run.state.params)}
        assert kept == {jnp.dtype("float32" if name == "float32" else "bfloat16")}
        losses[name] = run.evaluate()["loss"]
    again = jaxnets.open_run(tmp_path / "random")
    np.testing.assert_array_equal(again.predict(x[:9]), run.predict(x[:9]))

    # The same by hand, with weights rounded to the nearest after each step.
    targets = jnp.asarray((y - y.mean()) / y.std(), jnp.float32)
    update, inputs = adam.build(600), jnp.asarray((x - x.mean(0)) / x.std(0))

    def loss(params):
        return jnp.square(model.apply({"params": params}, inputs) - targets).mean()

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            updates, state = update.update(jax.grad(loss)(params), state, params)
            rounded = jax.tree.map(lambda p, u: (p + u).astype(jnp.bfloat16).astype(jnp.float32), params, updates)
            return (rounded, state), None

        return loss(jax.lax.scan(step, (params, update.init(params)), None, length=600)[0][0])

    start = jax.tree.map(
        lambda a: a.astype(jnp.bfloat16).astype(jnp.float32), model.init(jax.random.key(0), inputs)["params"]
    )
    losses["nearest"] = float(train(start))
    assert losses["random"] < 1.2 * losses["float32"], losses
    assert losses["random"] < 0.8 * losses["nearest"], losses


def test_an_average_of_such_weights_is_refused():
    data = (np.zeros((8, 2), np.float32), np.zeros(8))
    with pytest.raises(UsageError, match="would stand still"):
        jaxnets.fit(
            MLP(widths=()),
            data,
            steps=1,
            precision=KEPT,
            average=EMA(0.9),
            progress="none",
            optimizer=StochasticRounding(),
        )
    with pytest.raises(UsageError, match="need each other; got precision.weights 'bfloat16' and AdamW"):
        jaxnets.fit(MLP(widths=()), data, steps=1, precision=KEPT, progress="none")
