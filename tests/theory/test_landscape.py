"""The loss over the weights: critical points, convexity, copies of a network, what training finds, double descent."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets import theory

POINTS = {
    "minimum": (lambda w: w[0] ** 2 + 3 * w[1] ** 2, [2, 6]),
    "maximum": (lambda w: -(w[0] ** 2) - w[1] ** 2, [-2, -2]),
    "saddle": (lambda w: w[0] * w[1], [-1, 1]),
    "degenerate": (lambda w: w[0] ** 2 + w[1] ** 4, [0, 2]),
}


@pytest.mark.parametrize("kind", POINTS)
def test_kinds_of_critical_points(kind):
    loss, eigenvalues = POINTS[kind]
    found = theory.critical_point(loss, jnp.zeros(2))
    assert found.kind == kind
    assert found.gradient == 0
    np.testing.assert_allclose(found.eigenvalues, eigenvalues, atol=1e-6)


def test_an_eigenvalue_of_zero_leaves_the_kind_undecided():
    # The same Hessian, and a minimum, a maximum along that line, or neither.
    for sign in (1, -1, 0):
        assert theory.critical_point(lambda w, s=sign: w[0] ** 2 + s * w[1] ** 4, jnp.zeros(2)).kind == "degenerate"
    assert theory.critical_point(lambda w: w[0] ** 2 - w[1] ** 2 + 0 * w[2], jnp.zeros(3)).kind == "saddle"
    assert theory.kind_of([0.0, 0.0]) == "degenerate"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([-2.0, -1, 0, 1, 3]), min_size=1, max_size=6), st.integers(0, 99))
def test_the_kind_does_not_depend_on_the_axes(eigenvalues, seed):
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))[0]
    turned = np.linalg.eigvalsh(rotation @ np.diag(eigenvalues) @ rotation.T)
    assert theory.kind_of(turned) == theory.kind_of(eigenvalues)
    signs = {int(np.sign(value)) for value in eigenvalues}
    want = {frozenset({1}): "minimum", frozenset({-1}): "maximum"}
    assert theory.kind_of(eigenvalues) == want.get(frozenset(signs), "saddle" if {1, -1} <= signs else "degenerate")


def wave(x):
    return np.sin(3 * x)


@pytest.fixture(scope="module")
def fitted():
    """A network that fits a wave, its loss as a function of variables, and its data."""
    network = theory.relu_interpolation(wave, 8)
    x = jnp.linspace(0, 1, 50)[:, None]
    y = jnp.sin(3 * x[:, 0])
    return network, jax.jit(lambda v: jnp.square(network.model.apply(v, x)[:, 0] - y).mean())


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(8)))
def test_the_loss_is_not_convex_in_the_weights(fitted, order):
    network, loss = fitted
    copy = theory.permuted(network, order)
    assert float(loss(copy.variables)) == pytest.approx(float(loss(network.variables)), rel=1e-3, abs=1e-8)
    if list(order) != sorted(order):
        middle = theory.midpoint(network, copy)
        assert float(loss(middle.variables)) > 10 * float(loss(network.variables))
        assert theory.above_chord(loss, network.variables, copy.variables) > 0


def test_copies_by_a_permutation_of_any_layer_of_a_deep_network():
    network = theory.initialised([5, 4], 3, seed=0)
    x = np.random.default_rng(0).normal(size=(6, 3))
    for layer, units in enumerate((5, 4)):
        order = np.random.default_rng(layer).permutation(units).tolist()
        np.testing.assert_allclose(theory.permuted(network, order, layer=layer)(x), network(x), rtol=1e-5)


def test_the_loss_is_convex_in_the_outputs():
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.normal(size=20))
    labels = jnp.asarray(rng.integers(0, 2, 20), jnp.float32)
    square, logistic = (
        lambda out: jnp.square(out - y).mean(),
        lambda out: (jnp.logaddexp(0.0, out) - labels * out).mean(),
    )
    for loss in (square, logistic):
        for _ in range(5):
            a, b = jnp.asarray(rng.normal(size=20) * 3), jnp.asarray(rng.normal(size=20) * 3)
            assert theory.above_chord(loss, a, b) <= 1e-6


def test_logistic_regression_is_convex_in_its_weights_and_a_network_is_not():
    rng = np.random.default_rng(1)
    x, y = jnp.asarray(rng.normal(size=(40, 3))), jnp.asarray(rng.integers(0, 2, 40), jnp.float32)

    def logistic(w):
        return (jnp.logaddexp(0.0, x @ w) - y * (x @ w)).mean()

    def network(w):
        out = jnp.tanh(x @ w[:6].reshape(3, 2)) @ w[6:]
        return (jnp.logaddexp(0.0, out) - y * out).mean()

    with jax.enable_x64(True):
        assert theory.least_curvature(logistic, jnp.zeros(3), samples=100, radius=5.0) > 0
        assert theory.least_curvature(network, jnp.zeros(8), samples=20, radius=5.0) < -1e-3


def test_a_positive_hessian_at_a_minimum_does_not_make_it_global():
    def loss(w):  # minima at about -1 and 1; the one at 1 is the higher
        return jnp.square(w[0] ** 2 - 1) + 0.2 * w[0]

    w = jnp.array([0.9740])
    found = theory.critical_point(loss, w)
    assert found.kind == "minimum"
    assert found.gradient < 1e-2
    assert float(loss(-w)) < float(loss(w))
    assert theory.least_curvature(loss, w, samples=50, radius=2.0) < 0


@pytest.mark.slow
def test_xor_is_learned_from_some_seeds_and_from_more_with_more_units():
    shares = [theory.xor_learned(units, seeds=100) for units in (1, 2, 3, 4)]
    assert shares[0] == 0  # one unit cannot represent it
    assert 0.2 < shares[1] < 0.7  # two can: the lecture's weights
    assert shares[1] < shares[2] < shares[3]
    assert shares[3] > 0.85


def test_two_units_represent_xor_and_many_seeds_do_not_learn_it():
    np.testing.assert_array_equal(theory.xor().fires(theory.bits(2)), [0, 1, 1, 0])
    assert theory.xor().model.widths == (2,)
    assert theory.xor_learned(2, seeds=40, steps=1000) < 0.8


def test_with_a_large_scale_training_moves_the_weights_little():
    rich, lazy, lazier = (theory.scaled_training(scale, units=32, steps=500) for scale in (0.3, 10.0, 100.0))
    assert rich.first == lazy.first == lazier.first
    assert max(rich.last, lazy.last, lazier.last) < 0.4 * rich.first  # all learn
    assert rich.last < lazy.last
    assert lazy.moved / lazier.moved == pytest.approx(10, rel=0.05)
    assert rich.moved > 10 * lazy.moved


def test_double_descent_has_its_peak_where_the_features_fit_the_examples():
    before, peak, beyond = theory.double_descent_errors([20, 50, 500], examples=50, inputs=10, trials=7)
    assert peak > 5 * before
    assert peak > 20 * beyond
    assert beyond < before


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: theory.kind_of([]), "at least one number"),
        (lambda: theory.permuted(theory.xor(), [0, 0]), "a permutation of the units of hidden layer 0"),
        (lambda: theory.permuted(theory.xor(), [0, 1], layer=1), "hidden layer 1"),
        (lambda: theory.least_curvature(jnp.sum, jnp.zeros(1), samples=0, radius=1.0), "samples is at least 1"),
        (lambda: theory.xor_learned(0), "at least 1, got 0"),
        (lambda: theory.scaled_training(0.0), "scale is above 0"),
        (lambda: theory.double_descent_errors([]), "at least 1"),
    ],
)
def test_invalid_landscapes_are_refused_with_the_reason(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_all_orders_of_the_units_are_as_many_networks():
    network = theory.initialised([3], 2, seed=0)
    kernels = {
        np.asarray(theory.permuted(network, order).variables["params"]["hidden_0"]["kernel"]).tobytes()
        for order in itertools.permutations(range(3))
    }
    assert len(kernels) == 6
