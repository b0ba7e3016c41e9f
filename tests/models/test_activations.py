"""Activations that jax lacks: values, gradients, and a model that has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import drawn, output_and_gradient

from jaxnets.models import MLP
from jaxnets.models.activations import ACTIVATIONS, clip, step
from jaxnets.ops.roles import weights

POINTS = jnp.array([-2.0, -1.0, -0.25, 0.0, 0.25, 1.0, 2.0])


def test_the_step_is_exact_and_its_gradient_is_that_of_the_identity_near_zero():
    np.testing.assert_array_equal(step(POINTS), [0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(jax.vmap(jax.grad(step))(POINTS), [0, 1, 1, 1, 1, 1, 0])
    assert step(POINTS.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    # Forward mode and under a compiled loop, too.
    assert float(jax.jvp(step, (jnp.array(0.5),), (jnp.array(3.0),))[1]) == 3


def test_the_saturated_linear_function_is_exact_and_has_no_gradient_at_its_ends():
    np.testing.assert_array_equal(clip(POINTS), [0, 0, 0, 0, 0.25, 1, 1])
    np.testing.assert_array_equal(jax.vmap(jax.grad(clip))(POINTS), [0, 0, 0, 0, 1, 0, 0])


def test_a_steep_sigmoid_tends_to_the_step_away_from_zero():
    away = POINTS[POINTS != 0]
    gaps = [float(jnp.abs(jax.nn.sigmoid(steep * away) - step(away)).max()) for steep in (1, 10, 100)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-6
    assert float(jax.nn.sigmoid(100 * 0.0)) == 0.5


def test_the_relu_has_no_gradient_at_zero_and_the_leaky_one_its_small_slope():
    """The derivative at 0 is a choice: 0 for ReLU; 1 for the leaky one, which jax takes from the right."""
    relu, leaky = ACTIVATIONS["relu"], ACTIVATIONS["leaky_relu"]
    np.testing.assert_array_equal(jax.vmap(jax.grad(relu))(POINTS), [0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(jax.vmap(jax.grad(leaky))(POINTS), [0.01, 0.01, 0.01, 1, 1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(leaky(POINTS), jnp.where(POINTS < 0, 0.01 * POINTS, POINTS), rtol=1e-6)


def test_prelu_learns_a_slope_for_each_layer():
    """He et al. 2015, with one slope for all units of a layer; it begins at .01 and does not decay."""
    model = MLP(widths=(5, 4), outputs=2, activation="prelu")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), x)
    slopes = [variables["params"][f"slope_{layer}"]["negative_slope"] for layer in (0, 1)]
    assert [float(slope) for slope in slopes] == pytest.approx([0.01, 0.01])
    with_leaky = MLP(widths=(5, 4), outputs=2, activation="leaky_relu")
    np.testing.assert_allclose(model.apply(variables, x), with_leaky.apply(variables, x), rtol=1e-6)
    gradient = jax.grad(lambda v: jnp.square(model.apply(v, x)).sum())(variables)["params"]
    assert all(abs(float(gradient[f"slope_{layer}"]["negative_slope"])) > 1e-4 for layer in (0, 1))
    decays = weights(variables["params"])
    assert not decays["slope_0"]["negative_slope"]
    assert decays["hidden_0"]["kernel"]


@pytest.mark.parametrize("name", ["leaky_relu", "step", "clip"])
def test_an_mlp_has_these_activations(name):
    model = MLP(widths=(5,), outputs=2, activation=name)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    variables = drawn(model, x)
    got, gradient = output_and_gradient(lambda v: model.apply(v, x), variables)
    hidden, output = (jax.device_get(variables["params"][layer]) for layer in ("hidden_0", "output"))
    units = np.asarray(ACTIVATIONS[name](x @ hidden["kernel"] + hidden["bias"][None]))
    np.testing.assert_allclose(got, units @ output["kernel"] + output["bias"], rtol=1e-5, atol=1e-6)
    assert np.abs(gradient["params"]["hidden_0"]["kernel"]).max() > 0
