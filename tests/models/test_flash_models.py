"""Models with flash attention: parameters, outputs and gradients of those with plain attention, and no scores in memory."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, drawn, output_and_gradient, run_here

from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import YOUNGER, digest
from jaxnets.data import Digits
from jaxnets.models import HybridLanguageModel, LanguageModel, Seq2SeqTransformer, TransformerEncoder, ViT
from jaxnets.models.transformer import Pair
from jaxnets.ops import flash_attention
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.tasks import NextToken

SMALL = {"vocab_size": 11, "layers": 1, "width": 16, "heads": 4, "length": 21}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 21)))
# One row ends in padding after five tokens, which is less than a block; the other has padding inside.
PADDED = TOKENS.at[0, 5:].set(0).at[0, :5].set(7)
HYBRID = {"vocab_size": 11, "layers": 2, "width": 16, "heads": 4, "pattern": ("attention", "recurrent")}
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 1)), jnp.float32)
PACKED = LanguageModel(**SMALL, positions="learned", separator=3, kv_heads=2, blocks="scanned", remat="products")
MODELS = {
    "packed": (PACKED, TOKENS),
    "rotary": (LanguageModel(**SMALL, positions="rotary"), TOKENS),
    "alibi": (LanguageModel(**SMALL, positions="alibi", separator=3, remat="blocks"), TOKENS),
    "sinusoidal": (LanguageModel(**SMALL, positions="sinusoidal", separator=3, remat="products_on_host"), TOKENS),
    "vit": (ViT(layers=1, width=16, heads=2, outputs=3), IMAGES),
    "encoder": (TransformerEncoder(**SMALL, positions="alibi", pool="token", outputs=3), PADDED),
    "vectors": (TransformerEncoder(**SMALL, positions="rotary", pool="none", remat="blocks"), PADDED),
    "translation": (Seq2SeqTransformer(**SMALL, source_vocab_size=11), Pair(PADDED, TOKENS[:, :13])),
    "translation, alibi": (
        Seq2SeqTransformer(**SMALL, source_vocab_size=11, positions="alibi", norm_place="post", remat="products"),
        Pair(PADDED, TOKENS[:, :13]),
    ),
    "hybrid": (HybridLanguageModel(**HYBRID, window=10), TOKENS),
    "hybrid, remat": (HybridLanguageModel(**HYBRID, window=3, remat="products_with_weights"), TOKENS),
}
QUICK = ("packed", "vectors")


def assert_equal(found, wanted):
    """Outputs and gradients are equal up to rounding, which is measured by the largest number of all."""
    for one, other in zip(found, wanted, strict=True):
        largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(other))
        assert_close(one, other, atol=4e-6 * largest)


def with_flash(model, **fields):
    return dataclasses.replace(model, attention="flash", parent=None, **fields)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MODELS])
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
    assert_equal(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "encoder", "translation", "hybrid"])
def test_on_eight_devices_it_is_the_model_with_plain_attention_on_one(name, monkeypatch):
    monkeypatch.setattr(flash_attention, "BLOCK", 8)
    model, inputs = MODELS[name]
    inputs = jax.tree.map(lambda a: jnp.concatenate([a] * 4), inputs)
    variables = drawn(model, inputs)
    wanted = output_and_gradient(lambda v: model.apply(v, inputs, train=True), variables)
    with jax.set_mesh(make_mesh(MeshShape(data=2, fsdp=2, tensor=2))):
        found = output_and_gradient(lambda v: with_flash(model).apply(v, inputs, train=True), variables)
    assert_equal(found, wanted)


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


@pytest.mark.slow
def test_a_run_of_the_command_learns_the_same_with_it(tmp_path):
    (tmp_path / "a.txt").write_text("to be or not to be, that is the question: " * 40)
    small = ("--task.model.width", 16, "--task.model.layers", 1, "--task.model.mlp-dim", 16, "--data.length", 24)

    def losses(kind):
        flags = ("--steps", 4, "--log-every", 2, "--batch-size", 8, "--task.model.window", 5, "--data.path", "a.txt")
        run = ("--run-dir", kind, "--task.model.attention", kind, "--task.model.pattern", "attention")
        done = run_here("train", "shakespeare_hybrid", *small, *flags, *run, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (tmp_path / kind / "metrics.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "loss" in line]

    plain, flash = losses("plain"), losses("flash")
    assert len(plain) >= 3
    assert flash == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    "kind", [LanguageModel, ViT, TransformerEncoder, Seq2SeqTransformer, HybridLanguageModel], ids=lambda k: k.__name__
)
def test_the_choice_names_other_runs_and_its_default_no_new_ones(kind):
    def named(**fields):
        return digest(Experiment(data=Digits(), task=NextToken(model=kind(**fields))))

    assert named() == named(attention="plain") != named(attention="flash")
    assert YOUNGER[kind.__name__]["attention"] == "plain"
    with pytest.raises(ValueError, match="attention is one of 'plain', 'flash', got 'cudnn'"):
        kind(attention="cudnn")
