"""Layers split over devices: the results of one device, and what the split saves."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_close, assert_same_bits

import jaxnets
from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.errors import UsageError
from jaxnets.data import from_arrays
from jaxnets.data.sources.text import from_tokens
from jaxnets.data.text.tokenizers import Characters
from jaxnets.models import CNN, MLP, RNN, Experts, HybridLanguageModel, LanguageModel, ViT
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.parallel.partition import shardings
from jaxnets.runs.open import open_run
from jaxnets.tasks import NextToken

RNG = np.random.default_rng(0)
SMALL = {"layers": 2, "heads": 4, "width": 32}


def text():
    ids = RNG.integers(0, 16, 900)
    return from_tokens(ids[:800], ids[800:], Characters(tuple("abcdefghijklmnop")), name="t", source="s", length=16)


def images():
    return from_arrays(RNG.normal(size=(64, 8, 8, 3)).astype(np.float32), RNG.integers(0, 4, 64), name="images")


def table():
    return from_arrays(RNG.normal(size=(64, 8)).astype(np.float32), RNG.integers(0, 4, 64), name="table")


FAMILIES = {
    "gpt": (NextToken(model=LanguageModel(**SMALL, length=16)), text),
    "llama, scanned": (
        NextToken(model=LanguageModel(**SMALL, length=16, kv_heads=2, blocks="scanned", positions="rotary", norm="rms",
                                      mlp="swiglu", biases="none", embedding="untied")), text),
    "experts": (NextToken(model=LanguageModel(**SMALL, length=16, experts=Experts(count=4))), text),
    "hybrid": (NextToken(model=HybridLanguageModel(layers=3, heads=4, width=32, window=8)), text),
    "recurrent": (NextToken(model=RNN(cell="gru", widths=(32,), answer="every")), text),
    "vision transformer": (ViT(patch=4, width=32, layers=2, heads=4), images),
    "mlp": (MLP(widths=(64, 64)), table),
}  # fmt: skip
KEPT_FAST = ("gpt", "mlp")


def trained(family, mesh, **options):
    model, data = FAMILIES[family]
    global RNG
    RNG = np.random.default_rng(0)
    given = {"steps": 4, "batch_size": 16, "optimizer": optax.sgd(0.1, momentum=0.9), "seed": 1, "progress": "none"}
    return jaxnets.fit(model, data(), mesh=mesh, **given | options)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in KEPT_FAST else pytest.mark.slow) for name in FAMILIES]
)
def test_layers_split_over_devices_train_as_on_one(family):
    one = trained(family, MeshShape(data=1))
    split = trained(family, MeshShape(data=2, fsdp=2, tensor=2))
    cut = [path for path, sharding in leaf_paths(split.parts.shardings).items() if "tensor" in sharding.spec]
    assert cut
    # Sums over devices are rounded otherwise.
    assert_close(split.state.params, one.state.params, rtol=1e-4, atol=1e-5)
    assert split.evaluate()["loss"] == pytest.approx(one.evaluate()["loss"], rel=1e-5)


@pytest.mark.slow
def test_each_device_holds_its_share():
    run = trained("gpt", MeshShape(data=1, tensor=4, fsdp=2))
    placed, whole = leaf_paths(run.parts.shardings), leaf_paths(run.parts.abstract)
    each = sum(np.prod(placed[path].shard_shape(leaf.shape)) for path, leaf in whole.items())
    assert sum(leaf.size for leaf in whole.values()) / each > 6  # of 8: biases and norms are on every device


@pytest.mark.slow
def test_a_checkpoint_goes_to_another_mesh_bit_for_bit(tmp_path, one_device):
    run = trained("gpt", MeshShape(data=2, fsdp=1, tensor=4), run_dir=tmp_path / "run", optimizer="adamw")
    assert_same_bits(open_run(tmp_path / "run", mesh=one_device).state, run.state)


def test_two_sums_over_devices_in_a_layer():
    def sums(layers):
        model = LanguageModel(layers=layers, heads=8, width=32, length=16, vocab_size=16, positions="rotary")
        mesh = make_mesh(MeshShape(data=1, tensor=8))
        tokens = jnp.zeros((2, 16), jnp.int32)
        with jax.set_mesh(mesh):
            variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
            placed = shardings(variables, mesh)
            compiled = jax.jit(model.apply, in_shardings=(placed, None)).lower(variables, tokens).compile().as_text()
        assert "all-to-all" not in compiled
        return len(re.findall(r" all-reduce(?:-start)?\(", compiled))

    assert sums(3) - sums(2) <= 2


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(UsageError, match="no layer of CNN is split"):
        jaxnets.fit(CNN(features=(4,), dense=()), images(), mesh=MeshShape(tensor=8), steps=2, progress="none")
