"""Damage: how much, where, what it costs, and learning again under it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnets
from jaxnets import diagnose
from jaxnets.core.errors import UsageError
from jaxnets.data import Glyphs
from jaxnets.models import MLP

MODEL = MLP(widths=(64, 32), outputs=10)


@functools.cache
def glyphs():
    return Glyphs(train=2000, test=500).open()


@functools.cache
def trained():
    return jaxnets.fit(MODEL, glyphs(), steps=600, optimizer=optax.adam(3e-3), batch_size=100, progress="none")


def accuracy(params):
    outputs = trained().parts.predictor({"params": params}, {"inputs": glyphs().test["inputs"]})
    return float((np.asarray(outputs).argmax(-1) == glyphs().test["targets"]).mean())


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 9))
def test_the_given_share_of_weights_is_set_to_zero_and_nothing_else(share, seed):
    params = MODEL.init(jax.random.key(0), np.zeros((1, 64), np.float32))["params"]
    left, mask = diagnose.damaged(params, share, seed=seed)
    for layer in ("hidden_0", "hidden_1"):
        kernel = params[layer]["kernel"]
        assert int((mask[layer]["kernel"] == 0).sum()) == round(share * kernel.size)
        np.testing.assert_array_equal(left[layer]["kernel"], kernel * mask[layer]["kernel"])
        np.testing.assert_array_equal(mask[layer]["bias"], 1)
    np.testing.assert_array_equal(left["output"]["kernel"], params["output"]["kernel"])


def test_removed_units_lose_their_biases_too():
    params = jax.tree.map(jnp.ones_like, MODEL.init(jax.random.key(0), np.zeros((1, 64), np.float32))["params"])
    left, _ = diagnose.damaged(params, 0.25, kind="units", seed=3)
    gone = np.asarray(left["hidden_0"]["bias"] == 0)
    assert gone.sum() == 16
    np.testing.assert_array_equal((left["hidden_0"]["kernel"] == 0).all(axis=0), gone)
    np.testing.assert_array_equal((left["hidden_0"]["kernel"] != 0).all(axis=0), ~gone)
    assert (left["output"]["bias"] == 1).all()


def test_a_wrong_share_is_refused():
    with pytest.raises(UsageError, match=r"in \[0, 1\]; got 1.5"):
        diagnose.damaged({"hidden": {"kernel": jnp.ones((2, 2))}}, 1.5)
    with pytest.raises(UsageError, match="repeats is at least 1"):
        diagnose.damage_curve(lambda params: 0.0, {}, [0.5], repeats=0)


@pytest.mark.slow
def test_a_network_degrades_gracefully_and_learns_again_with_what_is_left():
    params = trained().params
    whole = accuracy(params)
    assert whole > 0.9
    for kind in ("weights", "units"):
        curve = diagnose.damage_curve(accuracy, params, [0, 0.1, 0.5, 1], kind=kind, repeats=4)
        assert curve.shape == (4, 4)
        assert (curve[0] == whole).all()
        means = curve.mean(axis=1)
        assert means[0] >= means[1] > means[2] > means[3]
        assert means[1] > 0.75  # a tenth is gone, and not a tenth of what it knew
        assert means[3] == pytest.approx(0.1, abs=0.02)  # chance
    left, mask = diagnose.damaged(params, 0.7, seed=1)
    before = accuracy(left)
    again = jaxnets.fit(
        MODEL, glyphs(), initial={"params": left}, steps=400, batch_size=100, progress="none",
        optimizer=diagnose.held_at_zero(optax.adam(3e-3), mask),
    )  # fmt: skip
    assert before < 0.7
    assert accuracy(again.params) > 0.85
    for leaf, hole in zip(jax.tree.leaves(again.params), jax.tree.leaves(mask), strict=True):
        assert (np.asarray(leaf)[np.asarray(hole) == 0] == 0).all()
