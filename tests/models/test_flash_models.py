"""Models with flash attention: parameters, outputs and gradients of those with plain attention, and no scores in memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, drawn, output_and_gradient

from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import digest
from jaxnets.data import Digits
from jaxnets.models import LanguageModel, ViT
from jaxnets.ops import flash_attention
from jaxnets.tasks import NextToken

SMALL = {"vocab_size": 11, "layers": 1, "width": 16, "heads": 4, "length": 21}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 21)))
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 1)), jnp.float32)
PACKED = LanguageModel(**SMALL, positions="learned", separator=3, kv_heads=2, blocks="scanned", remat="products")
MODELS = {
    "packed": (PACKED, TOKENS),
    "rotary": (LanguageModel(**SMALL, positions="rotary"), TOKENS),
    "alibi": (LanguageModel(**SMALL, positions="alibi", separator=3, remat="blocks"), TOKENS),
    "sinusoidal": (LanguageModel(**SMALL, positions="sinusoidal", separator=3, remat="products_on_host"), TOKENS),
    "vit": (ViT(layers=1, width=16, heads=2, outputs=3), IMAGES),
}


def with_flash(model, **fields):
    return dataclasses.replace(model, attention="flash", parent=None, **fields)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "packed" else pytest.mark.slow) for n in MODELS])
def test_it_is_the_model_with_plain_attention(name, monkeypatch):
    monkeypatch.setattr(flash_attention, "BLOCK", 8)
    model, inputs = MODELS[name]
    variables, flash = drawn(model, inputs), with_flash(model)
    shapes = jax.eval_shape(flash.init, jax.random.key(0), inputs)
    assert jax.tree.map(
        lambda a, b: a.shape == b.shape, variables, shapes
    )  # so a checkpoint of one opens with the other
    found, wanted = (
        output_and_gradient(lambda v, m=m: m.apply(v, inputs, train=True), variables) for m in (flash, model)
    )
    np.testing.assert_allclose(found[0], wanted[0], atol=2e-5)
    assert_close(found[1], wanted[1], atol=2e-5, rtol=2e-5)


SLOW_TO_TRACE = [pytest.param(remat, marks=pytest.mark.slow) for remat in ("blocks", "products_with_weights")]


@pytest.mark.parametrize("remat", ["none", "products", *SLOW_TO_TRACE])
def test_nothing_as_large_as_the_scores_is_stored(remat, monkeypatch):
    monkeypatch.setattr(flash_attention, "BLOCK", 16)
    T = 256
    plain = LanguageModel(**SMALL | {"length": T}, separator=3, blocks="scanned", remat=remat)
    tokens = jax.ShapeDtypeStruct((1, T), jnp.int32)
    variables = jax.eval_shape(plain.init, jax.random.key(0), tokens)

    def largest(model):
        def stored(variables, tokens):
            return jax.tree.leaves(jax.vjp(lambda v: model.apply(v, tokens, train=True).sum(), variables)[1])

        return max(np.prod(leaf.shape[1:]) for leaf in jax.eval_shape(stored, variables, tokens))

    assert largest(with_flash(plain)) <= T * 4 * 16  # hidden units of an MLP
    if remat in ("none", "products"):
        assert largest(plain) >= T * T


@pytest.mark.slow
def test_text_is_continued_with_a_cache_as_without():
    model = with_flash(MODELS["alibi"][0])
    variables = drawn(model, TOKENS)

    @jax.jit
    def both(variables):
        logits, cache = model.apply(variables, TOKENS[:, :9], cache=model.empty_cache(2, 21))
        more, _ = model.apply(variables, TOKENS[:, 9:], cache=cache)
        return jnp.concatenate([logits, more], 1), model.apply(variables, TOKENS)

    np.testing.assert_allclose(*both(variables), atol=2e-5)


def test_the_choice_names_other_runs_and_its_default_no_new_ones():
    def named(**fields):
        return digest(Experiment(data=Digits(), task=NextToken(model=LanguageModel(**SMALL, **fields))))

    assert named() == named(attention="plain") != named(attention="flash")
    with pytest.raises(ValueError, match="attention is one of 'plain', 'flash', got 'cudnn'"):
        LanguageModel(attention="cudnn")
