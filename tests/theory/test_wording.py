"""Statements of lectures that are wrong as they are often written: a counterexample to each, and the form that holds."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import theory
from jaxnets.models.activations import step


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_scales_by_the_share_that_is_kept(rate):
    # Said: drop with probability p and scale by 1 / p in training. That has the right mean at p = 1/2 only.
    x = jnp.ones((400, 500))
    kept = nn.Dropout(rate, deterministic=False).apply({}, x, rngs={"dropout": jax.random.key(0)})
    assert float(kept.mean()) == pytest.approx(1, abs=0.02)
    literal = float((kept != 0).mean()) / rate
    assert (literal == pytest.approx(1, abs=0.02)) == (rate == 0.5)
    assert literal == pytest.approx((1 - rate) / rate, rel=0.05)


def test_a_hessian_without_two_signs_is_no_saddle():
    # Said: all eigenvalues above 0, minimum; all below 0, maximum; else a saddle.
    literal = "saddle"
    bowl = theory.critical_point(lambda w: w[0] ** 2 + w[1] ** 4, jnp.zeros(2))
    assert bowl.kind == "degenerate" != literal
    values = [float(x**2 + y**4) for x in (-0.1, 0, 0.1) for y in (-0.1, 0, 0.1)]
    assert min(values) == values[4] == 0  # it is a minimum
    assert theory.kind_of([-1.0, 0.0, 1.0]) == "saddle"


def test_not_every_polynomial_of_degree_two_is_convex():
    # Said: any polynomial of degree two is convex. It is where its leading coefficient (its Hessian) is not below 0.
    assert theory.above_chord(lambda x: -(x**2), -1.0, 1.0) > 0.9
    assert theory.above_chord(lambda x: x**2, -1.0, 1.0) <= 0
    assert theory.above_chord(lambda x: x[0] * x[1], jnp.array([1.0, -1.0]), jnp.array([-1.0, 1.0])) > 0.9


def test_relu_is_convex_and_networks_of_it_are_not():
    # Said: ReLU is convex (so networks are). A sum with weights of both signs is not; with positive ones after the first layer it is.
    def negative(x):
        return jax.nn.relu(1 - jax.nn.relu(x))

    assert theory.above_chord(jax.nn.relu, -1.0, 1.0) <= 0
    assert theory.above_chord(negative, -2.0, 2.0) > 0.4
    rng = np.random.default_rng(0)
    first, second = jnp.asarray(rng.normal(size=(2, 16))), jnp.asarray(np.abs(rng.normal(size=16)))
    for _ in range(20):
        a, b = jnp.asarray(rng.normal(size=2) * 3), jnp.asarray(rng.normal(size=2) * 3)
        assert theory.above_chord(lambda x: jax.nn.relu(x @ first) @ second, a, b) <= 1e-5


def test_a_positive_hessian_at_a_point_does_not_imply_it_on_the_whole_domain():
    # Said: a positive semidefinite Hessian at a critical point makes it a global minimum.
    def loss(w):
        return jnp.square(w[0] ** 2 - 1) + 0.2 * w[0]

    higher = jnp.array([0.974])
    assert theory.critical_point(loss, higher).kind == "minimum"
    assert float(loss(-higher)) < float(loss(higher)) - 0.3


def test_the_hyperbolic_tangent_of_the_lecture_is_that_of_half_the_potential():
    # Said: the hyperbolic tangent is (1 - e^-x) / (1 + e^-x).
    x = jnp.linspace(-5, 5, 101)
    literal = (1 - jnp.exp(-x)) / (1 + jnp.exp(-x))
    np.testing.assert_allclose(theory.tanh_half(x), literal, atol=1e-6)
    np.testing.assert_allclose(theory.tanh_half(x), 2 * jax.nn.sigmoid(x) - 1, atol=1e-6)
    assert float(theory.tanh_half(1.0)) == pytest.approx(0.46212, abs=1e-5)
    assert abs(float(jnp.tanh(1.0)) - float(theory.tanh_half(1.0))) > 0.29


def test_the_sum_of_sigmoids_may_leave_the_range_of_the_function():
    # Said: F maps to [0, 1]. Its output unit is linear, so it may leave it, by less than the error.
    def plateau(x):
        return np.clip(8 * np.minimum(x - 0.2, 0.8 - x), 0, 1)

    network = theory.random_features(lambda points: plateau(points[:, 0]), 60, scale=12.0)
    x = np.linspace(0, 1, 4001)
    values = np.asarray(network(x[:, None]))[:, 0]
    error = theory.largest_error(network, plateau)
    assert values.max() > 1.0005
    assert values.min() < -0.0005
    assert values.max() <= 1 + error + 1e-6
    assert values.min() >= -error - 1e-6


def test_the_binary_code_needs_a_gain_that_grows_with_the_words():
    # Said: a saturated-linear unit reads the first bit of delta(w). The margin is 2^-(n + 1) there, and 1/4 for the Cantor code.
    for length in (1, 4, 9):
        above = theory.binary_code("1" + "0" * (length - 1))
        assert above - theory.binary_code("") == pytest.approx(2.0 ** -(length + 1), rel=1e-12)
        low, high = theory.cantor_code("0" + "1" * (length - 1)), theory.cantor_code("1" + "0" * (length - 1))
        assert high - low >= 1 / 4


def test_depth_alone_does_not_make_the_number_of_regions_grow():
    # Said: the number of linear regions grows exponentially with depth. The largest possible number does.
    random = [
        len(theory.pieces_1d(theory.initialised([8] * depth, 1, seed=1, biases=0.3), low=-3, high=3)) - 1
        for depth in (1, 4, 8)
    ]
    assert random[2] < 8 * random[0]
    assert len(theory.pieces_1d(theory.tent(8))) - 1 == 256  # with two units in a layer
    identity = theory.of_layers(
        [(np.ones((1, 2)), np.zeros(2)), *[(np.eye(2), np.zeros(2))] * 7, (np.ones((2, 1)), [0])], "relu"
    )
    assert len(theory.pieces_1d(identity)) - 1 == 1


def test_weights_belong_to_the_coding_of_the_inputs():
    # Said now {0, 1}, now {-1, 1}, with the same weights. The `and` of one coding fires for other words in the other.
    x = theory.bits(3)
    conjunction = theory.gate("and", 3)
    np.testing.assert_array_equal(theory.recoded(conjunction).fires(2 * x - 1), x.all(axis=1))
    either = theory.gate("or", 3)
    assert (either.fires(2 * x - 1) != x.any(axis=1)).any()


def test_a_potential_of_zero_fires():
    # Said: the step at 0 is 1, or left open. Here it is 1 everywhere, and sets contain their edges.
    assert float(step(jnp.array(0.0))) == 1
    assert theory.half_space([1.0], 0.5).fires([[0.5]])[0]
