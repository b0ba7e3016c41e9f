"""Small facts that everything else is made of: layers of neurons, softmax, losses, step sizes, batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets import theory
from jaxnets.models.layers import Dense


def test_a_dense_layer_is_a_row_of_neurons():
    rng = np.random.default_rng(0)
    kernel, bias, x = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=(7, 4))
    layer = Dense(3).apply({"params": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}, jnp.asarray(x))
    neurons = [np.asarray(theory.neuron(kernel[:, unit], bias=bias[unit])(x))[:, 0] for unit in range(3)]
    np.testing.assert_allclose(layer, np.stack(neurons, axis=1), rtol=1e-5, atol=1e-6)


def test_softmax_of_two_is_the_sigmoid_and_tends_to_the_largest():
    a = jnp.linspace(-4, 4, 9)
    two = jax.nn.softmax(jnp.stack([a, jnp.zeros(9)], axis=1))
    np.testing.assert_allclose(two[:, 0], jax.nn.sigmoid(a), rtol=1e-6)
    scores = jnp.array([1.0, 3.0, 2.0])
    np.testing.assert_allclose(jax.nn.softmax(scores / 0.05), [0, 1, 0], atol=1e-3)


@pytest.mark.parametrize("steep", [1.0, 4.0])
def test_the_derivative_of_a_steep_sigmoid(steep):
    def sigmoid(x):
        return jax.nn.sigmoid(steep * x)

    x = jnp.linspace(-2, 2, 21)
    y = sigmoid(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(sigmoid))(x), steep * y * (1 - y), rtol=1e-5, atol=1e-6)


def test_one_radial_unit_separates_a_disc_from_its_surroundings_and_a_line_does_not():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (4000, 2))
    inside = np.square(x).sum(axis=1) < 0.7**2
    unit = theory.ball([0.0, 0.0], 0.7)
    assert (unit.fires(x) == inside).mean() > 0.999
    shapes = jax.tree.map(jnp.shape, unit.variables)
    assert shapes == jax.tree.map(jnp.shape, unit.model.init(jax.random.key(0), jnp.zeros((1, 2))))
    lines = rng.normal(size=(500, 3))
    best = max(((np.c_[x, np.ones(len(x))] @ line >= 0) == inside).mean() for line in lines)
    assert best < 0.75


@settings(max_examples=5, deadline=None)
@given(st.lists(st.floats(0.1, 5), min_size=2, max_size=2))
def test_gradient_descent_diverges_just_above_its_largest_step_size(curvatures):
    def loss(w):
        return (jnp.asarray(curvatures) * w * w).sum() / 2

    limit = theory.largest_rate(loss, jnp.ones(2))
    assert limit == pytest.approx(2 / max(curvatures), rel=1e-5)
    below, above = (theory.descend(loss, jnp.ones(2), rate=share * limit, steps=100) for share in (0.95, 1.05))
    assert below[-1] < 0.1 * below[0]
    assert above[-1] > 10 * above[0]


def test_the_variance_of_a_batchs_gradient_falls_with_its_size():
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(200, 3))), jnp.asarray(rng.normal(size=200))

    def example_loss(w, example):
        return jnp.square(example[0] @ w - example[1])

    sizes = (1, 4, 16, 64)
    variances = [theory.gradient_variance(example_loss, jnp.ones(3), (x, y), size) for size in sizes]
    slope = np.polyfit(np.log(sizes), np.log(variances), 1)[0]
    assert slope == pytest.approx(-1, abs=0.1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: theory.largest_rate(lambda w: -(w @ w), jnp.ones(2)), "curves upwards"),
        (lambda: theory.ball([0.0], 0.0), "a radius above 0"),
        (lambda: theory.descend(jnp.sum, jnp.ones(2), rate=0.1, steps=0), "steps is at least 1"),
        (lambda: theory.gradient_variance(jnp.dot, jnp.ones(2), jnp.ones((3, 2)), 0), "batch_size is at least 1"),
    ],
)
def test_invalid_descents_are_refused_with_the_reason(make, said):
    with pytest.raises(ValueError, match=said):
        make()
