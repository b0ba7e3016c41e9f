"""Models that are no Linen modules: each equals a hand-written Optax loop of its own library."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, whole_batch

import jaxnets
from jaxnets.core.errors import UsageError
from jaxnets.interop import from_equinox, from_nnx

STEPS = 5


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(64, 5)).astype(np.float32), rng.integers(0, 3, 64)


def fitted(model, data, **options):
    return jaxnets.fit(
        model, data, test=data, optimizer=optax.adam(1e-2), steps=STEPS, batch_size=64, progress="none", **options
    )


def by_hand(apply, params, x, y):
    tx = optax.adam(1e-2)
    state = tx.init(params)

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()

    for _ in range(STEPS):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    return params


def same(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_pair_of_functions_is_a_model(data, tmp_path):
    def init(key, x):
        return {"w": jax.random.normal(key, (x.shape[-1], 3)), "b": jnp.zeros(3)}

    def apply(params, x):
        return x @ params["w"] + params["b"].reshape(1, -1)

    run = fitted((init, apply), data, run_dir=tmp_path / "run")
    begun = run.parts.fresh_state().params["functions"]
    same(run.state.params["functions"], by_hand(apply, begun, whole_batch(run), data[1]))
    again = fitted((init, apply), data, run_dir=tmp_path / "run")
    same(again.state.params, run.state.params)
    assert run.predict(data[0]).shape == (64,)


@pytest.mark.slow
def test_an_equinox_module_is_a_model(data):
    eqx = pytest.importorskip("equinox")
    module = eqx.nn.MLP(5, 3, 8, 1, key=jax.random.key(0))
    run = fitted(from_equinox(module), data)
    trained, fixed = eqx.partition(module, eqx.is_inexact_array)
    wanted = by_hand(lambda p, x: jax.vmap(eqx.combine(p, fixed))(x), trained, whole_batch(run), data[1])
    found = run.state.params["functions"]
    np.testing.assert_allclose(found["layers.0.weight"], wanted.layers[0].weight, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["layers.1.bias"], wanted.layers[1].bias, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_an_nnx_module_is_a_model():
    code = """
import jax, jax.numpy as jnp, numpy as np, optax, jaxnets
from flax import nnx
from jaxnets.interop import from_nnx
rng = np.random.default_rng(0)
data = rng.normal(size=(64, 5)).astype(np.float32), rng.integers(0, 3, 64)
module = nnx.Linear(5, 3, rngs=nnx.Rngs(0))
kernel = np.asarray(module.kernel[...])
run = jaxnets.fit(from_nnx(module), data, test=data, optimizer=optax.sgd(0.1), steps=1, batch_size=64, progress="none")
batch = run.parts.feed.batch(run.parts.feed.load(0, 1, 1), 0, jnp.int32(0))
x, y = np.asarray(batch["inputs"]), np.asarray(batch["targets"])
loss = lambda k: optax.softmax_cross_entropy_with_integer_labels(x @ k, y).mean()
np.testing.assert_allclose([leaf for name, leaf in run.state.params["functions"].items() if "kernel" in name][0], kernel - 0.1 * jax.grad(loss)(kernel), rtol=1e-4, atol=1e-6)
try:
    from_nnx(nnx.BatchNorm(5, rngs=nnx.Rngs(0)))
except jaxnets.core.errors.UsageError as error:
    assert "BatchStat" in str(error), error
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr


def test_an_object_that_is_no_model_is_refused_with_the_valid_forms(data):
    with pytest.raises(UsageError, match=r"a pair of functions \(init, apply\)"):
        fitted(lambda x: x, data)
    assert from_nnx.__doc__
