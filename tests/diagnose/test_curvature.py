"""Curvature: against dense Hessians and finite differences, in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxnets import diagnose
from jaxnets.core.errors import UsageError
from jaxnets.models import MLP
from jaxnets.models.layers import Conv, Dense


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def problem():
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(20, 3))), jnp.asarray(rng.normal(size=(20, 2)))
    model = MLP(widths=(4,), outputs=2, activation="tanh")
    params = jax.tree.map(lambda a: a.astype(jnp.float64), model.init(jax.random.key(0), x)["params"])

    def loss(params):
        return jnp.square(model.apply({"params": params}, x) - y).mean()

    flat, unravel = ravel_pytree(params)
    return loss, params, np.asarray(jax.hessian(lambda v: loss(unravel(v)))(flat)), unravel


def test_products_are_those_of_the_dense_hessian():
    loss, params, dense, unravel = problem()
    vector = np.random.default_rng(1).normal(size=len(dense))
    found, _ = ravel_pytree(diagnose.hessian_product(loss, params, unravel(jnp.asarray(vector))))
    np.testing.assert_allclose(found, dense @ vector, rtol=1e-9, atol=1e-11)


@pytest.mark.smoke
def test_the_range_is_that_of_the_dense_hessian():
    loss, params, dense, _ = problem()
    eigenvalues = np.linalg.eigvalsh(dense)
    # As many steps as parameters: every eigenvalue. With fewer, the outermost first, and from inside.
    np.testing.assert_allclose(
        diagnose.lanczos(loss, params, steps=len(dense))[[0, -1]], eigenvalues[[0, -1]], rtol=1e-8
    )
    low, high = diagnose.curvature_range(loss, params, steps=12)
    assert eigenvalues[0] - 1e-12 <= low
    assert high <= eigenvalues[-1] + 1e-12
    assert high == pytest.approx(eigenvalues[-1], rel=1e-3)


def test_lanczos_stops_at_an_invariant_subspace():
    values = diagnose.lanczos(lambda w: (jnp.array([1.0, 4.0, 4.0]) * w * w).sum() / 2, jnp.ones(3), steps=10)
    np.testing.assert_allclose(values, [1, 4], rtol=1e-6)


def test_the_trace_is_within_its_error():
    loss, params, dense, _ = problem()
    few, error_of_few = diagnose.hessian_trace(loss, params, samples=50)
    many, error_of_many = diagnose.hessian_trace(loss, params, samples=800)
    assert abs(many - np.trace(dense)) < 4 * error_of_many
    assert abs(few - np.trace(dense)) < 4 * error_of_few
    assert error_of_many == pytest.approx(error_of_few / 4, rel=0.4)


class Smooth(nn.Module):
    """A convolution and dense layers with the products and gradients of `jaxnets.ops`."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(Conv(4, (3, 3), strides=(2, 2))(x))
        x = nn.tanh(Dense(6)(x.reshape(x.shape[0], -1)))
        return Dense(2)(x)


def test_products_through_our_own_gradients_are_those_of_finite_differences():
    """Forward over reverse, through the gradients that dense layers and convolutions have here."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(5, 8, 8, 2))), jnp.asarray(rng.normal(size=(5, 2)))
    model = Smooth()
    params = jax.tree.map(lambda a: a.astype(jnp.float64), model.init(jax.random.key(0), x)["params"])
    vector = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), params)

    def loss(params):
        return jnp.square(model.apply({"params": params}, x) - y).mean()

    found = diagnose.hessian_product(loss, params, vector)

    def gradient(step):
        return jax.grad(loss)(jax.tree.map(lambda p, v: p + step * v, params, vector))

    differences = jax.tree.map(lambda a, b: (a - b) / 2e-5, gradient(1e-5), gradient(-1e-5))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(differences), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7 * float(jnp.abs(b).max()))


def test_wrong_counts_are_refused():
    with pytest.raises(UsageError, match="steps is at least 1"):
        diagnose.lanczos(lambda w: w @ w, jnp.ones(2), steps=0)
    with pytest.raises(UsageError, match="samples is at least 2"):
        diagnose.hessian_trace(lambda w: w @ w, jnp.ones(2), samples=1)
