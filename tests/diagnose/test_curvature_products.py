"""Gauss-Newton and Fisher products by their definitions, spectra by known ones, products on a mesh and through our gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets import diagnose
from jaxnets.core.errors import UsageError
from jaxnets.models import CNN, MLP, LanguageModel
from jaxnets.ops.dense import COPY_PAYS
from jaxnets.parallel import MeshShape, make_mesh


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def classifier():
    """Logits as a function of the parameters of a small network, labels, parameters, a vector like them."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(12, 3))), jnp.asarray(rng.integers(0, 3, 12))
    model = MLP(widths=(4,), outputs=3, activation="tanh")
    params = jax.tree.map(lambda a: a.astype(jnp.float64), model.init(jax.random.key(0), x)["params"])
    vector = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), params)
    return lambda params: model.apply({"params": params}, x), y, params, vector


def dense(logits, params):
    """The Jacobian `[N, C, P]` of the logits, and the probabilities `[N, C]`."""
    flat, unravel = ravel_pytree(params)
    both = jax.jit(lambda v: (jax.jacrev(lambda v: logits(unravel(v)))(v), jax.nn.softmax(logits(unravel(v)))))
    return tuple(np.asarray(part) for part in both(flat))


@pytest.mark.smoke
def test_gauss_newton_and_fisher_are_the_matrices_of_their_definitions():
    logits, y, params, vector = classifier()
    jacobian, shares = dense(logits, params)
    v = np.asarray(ravel_pytree(vector)[0])
    covariance = np.einsum("nc,cd->ncd", shares, np.eye(3)) - np.einsum("nc,nd->ncd", shares, shares)
    wanted = np.einsum("ncp,ncd,ndq->pq", jacobian, covariance, jacobian) / len(y) @ v

    def cross_entropy(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def products(params, vector):
        linear = diagnose.linearised(logits, params)
        made = (
            diagnose.gauss_newton_product(logits, cross_entropy, params, vector),
            diagnose.fisher_product(logits, params, vector),
            diagnose.hessian_product(lambda p: cross_entropy(linear(p)), params, vector),
            diagnose.hessian_product(lambda p: cross_entropy(logits(p)), params, vector),
        )
        return [ravel_pytree(tree)[0] for tree in made]

    *equal, whole = products(params, vector)
    for found in equal:
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)
    # The Hessian of the network is another matrix.
    assert np.abs(whole - wanted).max() > 1e-3


def test_the_empirical_fisher_is_the_mean_of_outer_products_of_gradients():
    logits, y, params, vector = classifier()
    flat, unravel = ravel_pytree(params)

    def losses(params):
        return optax.softmax_cross_entropy_with_integer_labels(logits(params), y)

    gradients = np.asarray(jax.jit(jax.jacrev(lambda v: losses(unravel(v))))(flat))
    product = jax.jit(lambda vector: diagnose.empirical_fisher_product(losses, params, vector))
    found = ravel_pytree(product(vector))[0]
    wanted = gradients.T @ (gradients @ np.asarray(ravel_pytree(vector)[0])) / len(y)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-13)


def test_a_linear_model_with_squared_error_and_a_logistic_regression_by_their_formulas():
    rng = np.random.default_rng(1)
    x, y, w, v = rng.normal(size=(30, 4)), rng.normal(size=30), rng.normal(size=4), rng.normal(size=4)

    def outputs(w):
        return jnp.asarray(x) @ w

    def error(out):
        return jnp.square(out - y).mean()

    newton = diagnose.gauss_newton_product(outputs, error, jnp.asarray(w), jnp.asarray(v))
    hessian = diagnose.hessian_product(lambda w: error(outputs(w)), jnp.asarray(w), jnp.asarray(v))
    np.testing.assert_allclose(newton, 2 * x.T @ x @ v / 30, rtol=1e-12)
    np.testing.assert_allclose(hessian, newton, rtol=1e-12)

    def logistic(w):
        return jnp.logaddexp(0, -jnp.sign(y) * outputs(w)).mean()

    share = 1 / (1 + np.exp(-x @ w))
    formula = (x * (share * (1 - share))[:, None]).T @ x / 30
    found = diagnose.hessian_product(logistic, jnp.asarray(w), jnp.asarray(v))
    np.testing.assert_allclose(found, formula @ v, rtol=1e-10)
    low, high = diagnose.curvature_range(logistic, jnp.asarray(w), steps=4)
    np.testing.assert_allclose([low, high], np.linalg.eigvalsh(formula)[[0, -1]], rtol=1e-8)


@pytest.mark.slow
def test_the_spectrum_of_a_quadratic_is_the_one_it_was_made_with():
    """A twentieth of 400 eigenvalues is around 10, the others between -1 and 1."""
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.uniform(-1, 1, 380), rng.uniform(9, 11, 20)])
    spread = jnp.asarray(values)
    found = diagnose.spectral_density(lambda w: (spread * w * w).sum() / 2, jnp.zeros(400), steps=30, samples=10)
    assert found.weights.sum() == pytest.approx(1)
    # 10 vectors of 400 numbers: a share p has the error sqrt(2 p (1 - p) / 4,000), .005 here.
    assert found.share(8, 12) == pytest.approx(0.05, abs=0.015)
    assert found.share(-1.01, 0) == pytest.approx((values <= 0).mean(), abs=0.05)
    assert found.trace == pytest.approx(values.sum(), rel=0.2)
    np.testing.assert_allclose(found.values[[0, -1]], [values.min(), values.max()], rtol=1e-2)
    at = np.linspace(-4, 14, 2001)
    density = found.density(at, 0.2)
    assert np.trapezoid(density, at) == pytest.approx(1, abs=1e-3)
    with pytest.raises(UsageError, match="above 0; got 0"):
        found.density(at, 0)


def test_one_vector_integrates_polynomials_exactly():
    """Gauss' quadrature: `sum w_i theta_i^k = v^T H^k v` for k below twice the steps."""
    values = jnp.asarray(np.random.default_rng(3).normal(size=50))
    found = diagnose.spectral_density(lambda w: (values * w * w).sum() / 2, jnp.zeros(50), steps=5, samples=1, seed=7)
    v = np.asarray(jax.random.normal(jax.random.split(jax.random.key(7), 1)[0], (50,)))
    measure = np.square(v) / np.square(v).sum()
    for power in range(10):
        wanted = (measure * np.asarray(values) ** power).sum()
        assert (found.weights * found.values**power).sum() == pytest.approx(wanted, rel=1e-9), power


def on_eight_devices():
    """A loss of parameters and rows, its arguments on one device and split over eight, and a vector."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(16, 8))), jnp.asarray(rng.normal(size=(16, 8)))
    model = MLP(widths=(16,), outputs=8, activation="tanh")
    params = jax.tree.map(lambda a: a.astype(jnp.float64), model.init(jax.random.key(0), x)["params"])
    vector = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), params)

    def loss(params, x=x, y=y):
        return jnp.square(model.apply({"params": params}, x) - y).mean()

    mesh = make_mesh(MeshShape(data=2, fsdp=4))
    place = {"kernel": NamedSharding(mesh, P("fsdp", None)), "bias": NamedSharding(mesh, P("fsdp"))}
    split = {
        name: {kind: jax.device_put(leaf, place[kind]) for kind, leaf in layer.items()}
        for name, layer in params.items()
    }
    rows = [jax.device_put(array, NamedSharding(mesh, P(("data", "fsdp"), None))) for array in (x, y)]
    return loss, (params, x, y), (split, *rows), vector


def test_products_on_eight_devices_are_those_of_one():
    loss, one, eight, vector = on_eight_devices()
    product = jax.jit(lambda params, x, y: diagnose.hessian_product(lambda p: loss(p, x, y), params, vector))
    for a, b in zip(jax.tree.leaves(product(*one)), jax.tree.leaves(product(*eight)), strict=True):
        assert len(b.sharding.device_set) == 8
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_products_through_attention_on_eight_devices_are_those_of_one():
    """Rows over four groups, parameters over two devices each. JAX computes the logits of attention in float32."""
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 11, (8, 16)))
    model = LanguageModel(vocab_size=11, length=16, layers=1, width=8, heads=2)
    params = jax.tree.map(lambda a: a.astype(jnp.float64), model.init(jax.random.key(0), tokens)["params"])
    vector = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), params)

    @jax.jit
    def product(params, tokens, vector):
        def loss(params):
            logits = model.apply({"params": params}, tokens)
            return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:]).mean()

        return diagnose.hessian_product(loss, params, vector)

    mesh = make_mesh(MeshShape(data=4, fsdp=2))
    place = NamedSharding(mesh, P())
    split = jax.tree.map(
        lambda a: jax.device_put(a, NamedSharding(mesh, P("fsdp")) if a.shape[0] % 2 == 0 else place), params
    )
    one = product(params, tokens, vector)
    eight = product(split, jax.device_put(tokens, NamedSharding(mesh, P("data"))), jax.device_put(vector, place))
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(eight))
    a, b = (np.asarray(ravel_pytree(jax.device_get(tree))[0]) for tree in (one, eight))
    assert np.linalg.norm(a - b) < 1e-6 * np.linalg.norm(a)


@pytest.mark.slow
def test_the_other_instruments_on_eight_devices_are_those_of_one():
    loss, (params, *_), (split, *_), _ = on_eight_devices()
    one, eight = (diagnose.lanczos(loss, tree, steps=6) for tree in (params, split))
    np.testing.assert_allclose(one, eight, rtol=1e-9)
    one, eight = (diagnose.hessian_trace(loss, tree, samples=3) for tree in (params, split))
    np.testing.assert_allclose(one, eight, rtol=1e-9)
    one, eight = (diagnose.sharpness(loss, tree, 0.1, steps=5) for tree in (params, split))
    np.testing.assert_allclose(one, eight, rtol=1e-9)
    one, eight = (
        diagnose.loss_slice(loss, tree, [diagnose.filter_direction(tree)], [0.0, 1.0]) for tree in (params, split)
    )
    np.testing.assert_allclose(one, eight, rtol=1e-9)


def differences_agree(loss, params, vector, *, tolerance):
    """Products through forward-over-reverse, and Richardson's extrapolation of central differences of the gradient."""
    gradient = jax.jit(lambda step: jax.grad(loss)(jax.tree.map(lambda p, v: p + step * v, params, vector)))

    def central(step):
        return jax.tree.map(lambda a, b: (a - b) / (2 * step), gradient(step), gradient(-step))

    wide, narrow = central(5e-5), central(2.5e-5)
    wanted = ravel_pytree(jax.tree.map(lambda n, w: (4 * n - w) / 3, narrow, wide))[0]
    found = ravel_pytree(jax.jit(lambda: diagnose.hessian_product(loss, params, vector))())[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * float(jnp.abs(wanted).max()))


@pytest.mark.slow
def test_products_through_a_small_cnn_are_those_of_finite_differences(monkeypatch):
    """Means in place of maxima, whose kinks differences would cross."""
    monkeypatch.setattr("jaxnets.models.cnn.max_pool", lambda x, *_: nn.avg_pool(x, (2, 2), (2, 2)))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(16, 16, 16, 2)))
    model = CNN(features=(4, 8), dense=(6,), outputs=3, activation="tanh")
    params = jax.tree.map(lambda a: a.astype(jnp.float64), model.init(jax.random.key(0), x)["params"])
    vector = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), params)

    def loss(params):
        return -jax.nn.log_softmax(model.apply({"params": params}, x))[:, 0].mean()

    assert "jaxnets_" in str(jax.make_jaxpr(loss)(params))  # our gradients are in it
    differences_agree(loss, params, vector, tolerance=1e-8)


@pytest.mark.slow
def test_products_through_a_small_language_model_are_those_of_finite_differences():
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 11, (64, 32)))
    model = LanguageModel(vocab_size=11, length=32, layers=1, width=8, heads=2)
    params = jax.tree.map(lambda a: a.astype(jnp.float64), model.init(jax.random.key(0), tokens)["params"])
    vector = jax.tree.map(lambda a: 0.3 * jnp.asarray(rng.normal(size=a.shape)), params)
    assert 64 * 32 * 8 in COPY_PAYS

    def loss(params):
        logits = model.apply({"params": params}, tokens)
        assert logits.dtype == jnp.float64
        return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:]).mean()

    assert "jaxnets_dense" in str(jax.make_jaxpr(loss)(params))
    differences_agree(loss, params, vector, tolerance=1e-8)
