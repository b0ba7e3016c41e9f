"""Products in 8 bits by Qwix, where it is installed."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnets
from jaxnets.core.errors import UsageError
from jaxnets.interop import quantised
from jaxnets.models import CNN, MLP
from jaxnets.optim import Adam

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 8, 3)), jnp.float32)


def test_without_qwix_it_says_how_to_install_it(monkeypatch):
    found = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "qwix":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UsageError, match=r"pip install 'jaxnets\[qwix\]'"):
        quantised(MLP())


@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.05), ("float8_e4m3fn", 0.2)])
def test_products_are_in_8_bits_and_the_parameters_stay(kind, bound):
    pytest.importorskip("qwix")
    model = CNN(features=(4,), dense=(8,), outputs=3)
    made = quantised(model, kind)
    variables = model.init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, made.init(jax.random.key(0), X)) == jax.tree.map(jnp.shape, variables)
    assert {"int8": "i8[", "float8_e4m3fn": "f8_e4m3fn["}[kind] in str(jax.make_jaxpr(made.apply)(variables, X))
    exact, got = model.apply(variables, X), made.apply(variables, X)
    error = float(jnp.abs(got - exact).max() / jnp.abs(exact).max())
    assert 1e-4 < error < bound  # 8 and 4 significant bits, over three layers


def test_a_model_trains_in_int8():
    pytest.importorskip("qwix")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 8)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    run = jaxnets.fit(quantised(MLP(widths=(16,))), (x, y), steps=100, optimizer=Adam(1e-2), progress="none")
    assert run.evaluate()["accuracy"] > 0.9
