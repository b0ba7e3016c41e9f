"""Vanishing gradients and dead units."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnets
from jaxnets import diagnose
from jaxnets.core.errors import UsageError
from jaxnets.data import Disc
from jaxnets.models import MLP

X = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)


def loss_of(model, x=X, y=Y):
    return lambda params: jnp.square(model.apply({"params": params}, x) - y).mean()


def profile(activation, **options):
    model = MLP(widths=(32,) * 20, outputs=3, activation=activation, **options)
    params = model.init(jax.random.key(0), X)["params"]
    found = diagnose.gradient_profile(loss_of(model), params)
    return [norm for name, norm in found.items() if name.startswith("hidden") and name.endswith("kernel")]


@pytest.mark.smoke
def test_gradients_vanish_through_twenty_layers_of_sigmoids():
    """A sigmoid's slope is at most 1/4; tanh and ReLU shrink gradients less, and norms keep them."""
    ratio = {name: norms[0] / norms[-1] for name in ("sigmoid", "tanh", "relu") for norms in [profile(name)]}
    assert ratio["sigmoid"] < 1e-9
    assert ratio["tanh"] > 1e-3
    assert ratio["relu"] > 1e-5
    normed = profile("relu", norm="layer")
    assert normed[0] / normed[-1] > 0.1


def test_the_profile_is_in_the_order_of_the_layers_and_its_norms_are_those_of_the_gradient():
    model = MLP(widths=(4,) * 12, outputs=3)
    params = model.init(jax.random.key(0), X)["params"]
    found = diagnose.gradient_profile(loss_of(model), params)
    kernels = [name for name in found if name.startswith("hidden") and name.endswith("kernel")]
    assert kernels == [f"hidden_{number}/kernel" for number in range(12)]
    gradient = jax.grad(loss_of(model))(params)
    assert found["hidden_11/bias"] == pytest.approx(float(jnp.linalg.norm(gradient["hidden_11"]["bias"])), rel=1e-5)


def shares(model, params):
    return diagnose.dead_units(lambda params, x: model.apply({"params": params}, x), params, X)


def with_bias(params, layer, value):
    return {**params, layer: {**params[layer], "bias": jnp.full_like(params[layer]["bias"], value)}}


def test_units_that_never_fire_are_dead():
    model = MLP(widths=(16, 12), outputs=3)
    params = model.init(jax.random.key(0), X)["params"]
    assert shares(model, params) == {"hidden_0": 0, "hidden_1": 0, "output": 0}
    some = jnp.where(jnp.arange(16) < 4, -100.0, 0.0)
    assert shares(model, {**params, "hidden_0": {**params["hidden_0"], "bias": some}})["hidden_0"] == 0.25
    # Behind a layer that is dead the next one gets no input, but its biases still learn.
    found = shares(model, with_bias(params, "hidden_0", -100.0))
    assert found["hidden_0"] == 1
    assert found["output"] == 0
    leaky = MLP(widths=(16, 12), outputs=3, activation="leaky_relu")
    assert shares(leaky, with_bias(params, "hidden_0", -100.0))["hidden_0"] == 0
    with pytest.raises(UsageError, match="looks at layers with a 'kernel'"):
        diagnose.dead_units(lambda params, x: x * params["scale"][None], {"scale": jnp.ones(8)}, X)


@pytest.mark.slow
def test_dead_relu_units_stay_dead_and_leaky_ones_recover():
    data = Disc(train=400, test=400).open()
    scores = {}
    for activation in ("relu", "leaky_relu"):
        model = MLP(widths=(32,), outputs=2, activation=activation)
        start = model.init(jax.random.key(0), np.zeros((1, 2), np.float32))["params"]
        small = {"kernel": start["hidden_0"]["kernel"] / 10, "bias": jnp.full(32, -0.6)}
        start = {**start, "hidden_0": small}  # potentials below 0 for all points
        run = jaxnets.fit(
            model,
            data,
            initial={"params": start},
            steps=800,
            optimizer=optax.adam(5e-2),
            batch_size=100,
            progress="none",
        )
        moved = jnp.abs(run.params["hidden_0"]["kernel"] - start["hidden_0"]["kernel"]).max()
        scores[activation] = run.evaluate()["accuracy"], float(moved)
    assert scores["relu"][1] == 0
    assert scores["relu"][0] < 0.75  # the larger class: 72 % lie outside
    assert scores["leaky_relu"][1] > 0.1
    assert scores["leaky_relu"][0] > 0.85
