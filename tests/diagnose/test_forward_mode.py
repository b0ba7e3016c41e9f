"""Instruments that differentiate forwards, on models whose operations have derivatives in reverse mode only."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_close, drawn

from jaxnets import diagnose
from jaxnets.models import HybridLanguageModel, LanguageModel
from jaxnets.ops.attention import dot_product_attention
from jaxnets.ops.attention_blocks import Pairs, as_arrays, real_keys
from jaxnets.ops.beyond_promise import compiling_for
from jaxnets.ops.flash_attention import flash_attention
from jaxnets.ops.forward_mode import jvp
from jaxnets.ops.scan import linear_recurrence, plain_linear_recurrence
from jaxnets.parallel import MeshShape, make_mesh

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (4, 12)))
PLAIN = LanguageModel(vocab_size=11, length=12, layers=1, width=8, heads=2, separator=3)
FLASH = dataclasses.replace(PLAIN, attention="flash", parent=None)


def losses_of(model):
    """The loss of each row by the parameters."""

    def losses(params, rows=TOKENS):
        logits = model.apply({"params": params}, rows)
        return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], rows[:, 1:]).mean(axis=1)

    return losses


def point_and_vector(model):
    params = drawn(model, TOKENS)["params"]
    rng = np.random.default_rng(1)
    return params, jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), params)


def test_derivatives_forwards_are_those_of_plain_attention():
    params, vector = point_and_vector(PLAIN)
    losses = jax.jit(losses_of(FLASH))
    before = str(jax.make_jaxpr(losses)(params))  # what was traced before is not used again
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jit(lambda: jax.jvp(losses, (params,), (vector,))).lower()
    found = jax.jit(lambda: jvp(losses, params, vector))()
    wanted = jax.jit(lambda: jax.jvp(losses_of(PLAIN), (params,), (vector,)))()
    assert_close(found, wanted, rtol=1e-6)
    assert "custom_vjp" in before
    assert str(jax.make_jaxpr(losses)(params)) == before


def products_of(attend, arrays):
    """A function of queries, keys and values, and its Hessian times a vector."""

    def loss(arrays):
        return jnp.sin(attend(*arrays)).sum()

    vector = [jnp.cos(7 * a) for a in arrays]
    return jax.jit(lambda arrays: diagnose.hessian_product(loss, arrays, vector))


def test_a_product_with_the_hessian_holds_no_scores_of_all_pairs():
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(2, 13, heads, 4)), jnp.float32) for heads in (2, 1, 1)]
    documents = jnp.asarray(np.sort(rng.integers(0, 3, (2, 13)), axis=1))
    pairs = Pairs(True, (documents, documents))
    plain = products_of(lambda q, k, v: dot_product_attention(q, k, v, **as_arrays(pairs, q, k)), arrays)
    flash = products_of(lambda *a: flash_attention(*a, causal=True, documents=documents, block=5), arrays)
    for found, wanted in zip(flash(arrays), plain(arrays), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert "13,13]" in str(jax.make_jaxpr(plain)(arrays))
    assert "13,13]" not in str(jax.make_jaxpr(flash)(arrays))


def test_a_query_that_sees_no_key_has_second_derivatives_of_zero():
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(2, 5, 2, 4)), jnp.float32) for _ in range(3)]
    real = jnp.asarray([[True] * 5, [False] * 5])
    found = products_of(lambda *a: flash_attention(*a, documents=real_keys(real, 5)), arrays)(arrays)
    alone = products_of(flash_attention, [a[:1] for a in arrays])([a[:1] for a in arrays])
    for both, one in zip(found, alone, strict=True):
        np.testing.assert_allclose(both[:1], one, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(both[1:], 0)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_kernels_are_not_differentiated_twice(platform, monkeypatch):
    kernels = []
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, k, v, **options: kernels.append(options) or q)
    q = jax.ShapeDtypeStruct((1, 256, 2, 64), jnp.bfloat16)

    def loss(q):
        return flash_attention(q, q, q, causal=True).astype(jnp.float32).sum()

    with compiling_for(platform):
        once = str(jax.make_jaxpr(jax.grad(loss))(q))
        assert "pallas_call" in once or kernels
        kernels.clear()
        twice = str(jax.make_jaxpr(lambda q: diagnose.hessian_product(loss, q, q))(q))
    assert not kernels
    assert "pallas_call" not in twice
    assert "scan" in twice


def test_every_instrument_that_differentiates_forwards_takes_flash_attention():
    params, vector = point_and_vector(FLASH)

    def logits(params):
        return FLASH.apply({"params": params}, TOKENS)

    def loss(outputs):
        return jnp.square(outputs).mean()

    def products():
        linear = diagnose.linearised(logits, params)
        return (
            diagnose.gauss_newton_product(logits, loss, params, vector),
            diagnose.fisher_product(logits, params, vector),
            diagnose.empirical_fisher_product(losses_of(FLASH), params, vector),
            diagnose.hessian_product(lambda p: loss(linear(p)), params, vector),
        )

    # Nothing is computed: what JAX cannot differentiate is found when the program is made.
    for found in jax.jit(products).lower().out_info:
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, params)


@pytest.mark.slow
def test_influences_are_those_of_plain_attention():
    params, _ = point_and_vector(PLAIN)
    flash, plain = (
        diagnose.influence(losses_of(model), [params], [0.1], TOKENS, TOKENS[:2]) for model in (FLASH, PLAIN)
    )
    np.testing.assert_allclose(flash, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"attention": "flash"}, {}, {"split_attention": "heads", "attention": "flash"}])
def test_products_where_devices_divide_sequences_are_those_of_one(fields):
    params, vector = point_and_vector(PLAIN)

    def product(model):
        program = jax.jit(lambda p, v: diagnose.hessian_product(lambda p: losses_of(model)(p).mean(), p, v))
        return jax.device_get(program(params, vector))

    wanted = product(PLAIN)
    with jax.set_mesh(make_mesh(MeshShape(data=2, sequence=2, tensor=2))):
        found = product(dataclasses.replace(PLAIN, parent=None, **fields))
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    assert_close(found, wanted, atol=1e-5 * largest)


@pytest.mark.slow
def test_a_hybrid_has_products_too():
    model = HybridLanguageModel(vocab_size=11, layers=2, width=8, heads=2, window=5, pattern=("recurrent", "attention"))
    params, vector = point_and_vector(model)
    flash = dataclasses.replace(model, attention="flash", parent=None)

    def mean(model):
        return lambda params: losses_of(model)(params).mean()

    found = jax.jit(lambda: diagnose.hessian_product(mean(flash), params, vector))()
    gradient = jax.jit(lambda step: jax.grad(mean(model))(jax.tree.map(lambda p, v: p + step * v, params, vector)))
    difference = jax.tree.map(lambda a, b: (a - b) / 2e-3, gradient(1e-3), gradient(-1e-3))
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(difference))
    assert_close(found, difference, atol=1e-2 * largest)


@pytest.mark.parametrize("method", ["associative", "sequential"])
def test_the_recurrence_is_differentiated_forwards_as_its_definition(method):
    rng = np.random.default_rng(0)
    at, along = ([jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32) for _ in range(2)] for _ in range(2))
    found = jvp(lambda pair: linear_recurrence(*pair, method=method), at, along)
    wanted = jax.jvp(lambda pair: plain_linear_recurrence(*pair), (at,), (along,))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
