"""Rematerialisation: the same outputs, gradients and parameters in every family; what is computed again costs FLOPs."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close

from jaxnets.config.serialize import from_data, to_data
from jaxnets.models import (
    CifarResNet,
    CoAtNet,
    ConvNeXt,
    HybridLanguageModel,
    LanguageModel,
    ResNet,
    Seq2SeqTransformer,
    TransformerEncoder,
    UNet,
    ViT,
)
from jaxnets.models.layers import Remat
from jaxnets.models.transformer import Pair
from jaxnets.training.program import count_flops

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(2, 32, 32, 3)), jnp.float32)
TOKENS = jnp.asarray(RNG.integers(1, 11, (2, 12)))
WORDS = {"vocab_size": 11, "layers": 2, "width": 16, "heads": 2, "dropout": 0.2}
FAMILIES = {
    "LanguageModel": (LanguageModel(**WORDS, length=12), TOKENS),
    "LanguageModel, scanned": (LanguageModel(**WORDS, length=12, blocks="scanned"), TOKENS),
    "HybridLanguageModel": (HybridLanguageModel(**{**WORDS, "layers": 3}), TOKENS),
    "TransformerEncoder": (TransformerEncoder(**WORDS, length=12, outputs=3), TOKENS),
    "Seq2SeqTransformer": (Seq2SeqTransformer(**WORDS, length=12, source_vocab_size=11), Pair(TOKENS[:, :7], TOKENS)),
    "ViT": (ViT(patch=8, layers=2, width=16, heads=2, dropout=0.2, outputs=3), IMAGES),
    "CoAtNet": (CoAtNet(stem=4, widths=(8, 8), heads=2, blocks=(1, 2), dropout=0.2, outputs=3), IMAGES),
    "ConvNeXt": (ConvNeXt(depths=(1, 2), widths=(8, 16), stochastic_depth=0.5, outputs=3), IMAGES),
    "ResNet": (ResNet(depth=18, width=4, stochastic_depth=0.5, squeeze=2, outputs=3), IMAGES),
    "CifarResNet": (CifarResNet(depth=8, width=4, outputs=3), IMAGES[:, :16, :16]),
    "UNet": (UNet(features=(8, 8), groups=2), IMAGES[:, :16, :16]),
}
POLICIES = [policy for policy in typing.get_args(Remat) if policy != "none"]
QUICK = {("LanguageModel", "products_with_weights"), ("Seq2SeqTransformer", "blocks"), ("CifarResNet", "products")}
CASES = [
    pytest.param(family, policy, marks=() if (family, policy) in QUICK else pytest.mark.slow)
    for family in FAMILIES
    for policy in POLICIES
]


def with_remat(model, remat):
    return dataclasses.replace(model, remat=remat, parent=None)


def loss(model, inputs, params, rest):
    """A number that depends on every output, in training, with dropout and statistics of the batch."""
    options = {} if isinstance(model, UNet) else {"rngs": {"dropout": jax.random.key(1)}}
    out, state = model.apply({"params": params, **rest}, inputs, train=True, mutable=list(rest), **options)
    return jnp.sum(jnp.sin(out * jnp.linspace(1, 2, out.size).reshape(out.shape))), (out, state)


@pytest.mark.parametrize(("family", "policy"), CASES)
def test_outputs_gradients_and_parameters_equal_those_without_remat(family, policy):
    model, inputs = FAMILIES[family]
    again = with_remat(model, policy)
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    assert_close(jax.jit(again.init)(jax.random.key(0), inputs), variables, atol=1e-7)
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    # Away from where they start: a new UNet's blocks add nothing.
    params = jax.tree.map(lambda a: a + 0.05 * RNG.normal(size=a.shape).astype(np.float32), variables["params"])
    found, wanted = (
        jax.jit(jax.grad(lambda p, m=m: loss(m, inputs, p, rest), has_aux=True))(params) for m in (again, model)
    )
    assert_close(found[1], wanted[1], rtol=1e-5, atol=1e-5)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted[0]))
    assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-5 * largest)


def flops_and_stored(model, inputs):
    """FLOPs of a gradient, and the bytes of what its first half hands to its second."""
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    rest = {
        name: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), t)
        for name, t in variables.items()
        if name != "params"
    }

    def value(params):
        return loss(model, inputs, params, rest)[0]

    flops = count_flops(jax.make_jaxpr(jax.grad(value))(variables["params"]).jaxpr)
    stored = jax.make_jaxpr(lambda p: jax.tree.leaves(jax.vjp(value, p)[1]))(variables["params"]).jaxpr
    kept = {id(v): v.aval for v in stored.outvars if not hasattr(v, "val") and v not in stored.invars}
    return flops, sum(a.size * a.dtype.itemsize for a in kept.values())


@pytest.mark.parametrize("family", [f if f == "ViT" else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def test_less_is_stored_and_more_is_computed(family):
    model, inputs = FAMILIES[family]
    found = {policy: flops_and_stored(with_remat(model, policy), inputs) for policy in ("none", *POLICIES)}
    (flops, stored), (most, least) = found["none"], found["blocks"]
    assert most > 1.1 * flops
    assert least < stored / 2
    # Products are most of the FLOPs, so storing them leaves next to nothing to compute again.
    assert flops <= found["products"][0] <= found["products_with_weights"][0] <= most
    assert found["products"][0] == pytest.approx(flops, rel=0.1)
    assert least < found["products_with_weights"][1] <= found["products"][1] < stored
    if family in ("LanguageModel", "ViT", "Seq2SeqTransformer", "TransformerEncoder"):
        # Attention's products are computed again: two of each head, of length x length.
        assert found["products"][0] < found["products_with_weights"][0] < most
        assert found["products_with_weights"][1] < found["products"][1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_field_means_none_and_unknown_values_are_refused(family):
    model, _ = FAMILIES[family]
    saved = to_data(model)
    assert saved.pop("remat") == "none"
    assert from_data(saved) == model
    with pytest.raises(
        ValueError,
        match="remat is one of 'none', 'blocks', 'products', 'products_with_weights', 'products_on_host', got 'all'",
    ):
        with_remat(model, "all")
