"""Layers, and the inputs that make their units largest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import diagnose
from jaxnets.core.errors import UsageError
from jaxnets.models import CNN, MLP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6)).astype(np.float32)


def test_the_outputs_of_a_layer():
    model = MLP(widths=(5, 3), outputs=2)
    variables = model.init(jax.random.key(0), X)
    found = diagnose.layer_output(model, "hidden_0")(variables, X)
    layer = variables["params"]["hidden_0"]
    np.testing.assert_allclose(found, X @ layer["kernel"] + layer["bias"][None], atol=1e-6)
    np.testing.assert_array_equal(
        diagnose.layer_output(model, "output", train=False)(variables, X), model.apply(variables, X)
    )
    with pytest.raises(UsageError, match="Did you mean 'hidden_[01]' or 'hidden_[01]'"):
        diagnose.layer_output(model, "hidden")(variables, X)


@pytest.mark.smoke
def test_the_input_of_a_linear_unit_is_its_weights_over_the_penalty():
    kernel = RNG.normal(size=(6, 3)).astype(np.float32)
    start, units = np.zeros((3, 6), np.float32), np.arange(3)
    found = diagnose.maximised_input(lambda v, x: x @ v, kernel, start, units, steps=600, learning_rate=0.05, l2=0.5)
    # Adam with a constant rate ends within about its rate of the maximum.
    np.testing.assert_allclose(found, kernel.T / 0.5, atol=0.02)
    cut = diagnose.maximised_input(lambda v, x: x @ v, kernel, start, units, l2=0.0, low=-1, high=1)
    np.testing.assert_array_equal(cut, np.sign(kernel.T))


def test_variation_and_shifts_make_it_smooth():
    weights = RNG.normal(size=(8, 8, 1)).astype(np.float32)

    def unit(variables, x):
        return (variables[None] * x).sum(axis=(1, 2, 3))

    start = np.zeros((1, 8, 8, 1), np.float32)

    def roughness(**options):
        found = diagnose.maximised_input(unit, weights, start, l2=0.5, **options)
        return np.square(np.diff(found, axis=1)).sum() / np.square(found).sum()

    plain = roughness()
    assert roughness(variation=1.0) < 0.5 * plain
    # Moved around by up to one place, the unit sees the mean of its weights over 3 x 3 places.
    assert roughness(shift=1) < 0.7 * plain
    with pytest.raises(UsageError, match="H, W"):
        diagnose.maximised_input(lambda v, x: x, jnp.zeros(()), np.zeros((2, 3), np.float32), 0, shift=1)


@pytest.mark.slow
def test_a_unit_of_a_convolution_is_larger_at_its_input():
    model = CNN(outputs=3)
    start = np.zeros((2, 8, 8, 1), np.float32)
    variables = model.init(jax.random.key(0), start)
    names = [name for name in variables["params"] if name != "output"]
    layer = diagnose.layer_output(model, names[0])

    def unit(h):
        return h[..., 1].reshape(len(h), -1).mean(axis=1)

    found = diagnose.maximised_input(layer, variables, start, unit, steps=50)
    assert (unit(layer(variables, found)) > unit(layer(variables, start)) + 0.05).all()
