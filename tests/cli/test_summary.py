"""The table of layers: its parts add up to what the program really holds and computes."""

import re
import time

import jax
import numpy as np
import pytest
from conftest import ROOT, run_cli

from jaxnets import config
from jaxnets.cli.summary import _shortened, layers_of
from jaxnets.cli.units import show_count
from jaxnets.core.errors import DataError
from jaxnets.data import GPT2Tokens, Ring, from_arrays
from jaxnets.models import CNN, MLP, RNN, LanguageModel
from jaxnets.runs.build import batch_spec
from jaxnets.tasks import Adversarial, Classification, NextToken, Regression

CARDS = {
    "flat": lambda: from_arrays(np.zeros((64, 40), np.float32), np.arange(64) % 10),
    "images": lambda: from_arrays(np.zeros((64, 16, 16, 3), np.uint8), np.arange(64) % 10),
    "sequences": lambda: from_arrays(np.zeros((64, 7, 2), np.float32), np.linspace(0, 1, 64, dtype=np.float32)),
}


def bound(task, data, batch=16):
    return task.bind(data.card), batch_spec(data, batch)


def rows(task, data, batch=16):
    task, spec = bound(task, data, batch)
    return layers_of(task, spec), task, spec


def parameters_of(task, spec):
    shapes = jax.eval_shape(lambda key, batch: task.init(key, batch), jax.random.key(0), spec)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_a_dense_layer_costs_two_multiplications_a_weight():
    found, task, spec = rows(Classification(model=MLP(widths=(96, 33))), CARDS["flat"]())
    layers = {layer.path: layer for layer in found}
    assert layers["MLP", "hidden_0"].flops == pytest.approx(2 * 16 * 40 * 96, rel=0.05)
    assert layers["MLP", "hidden_1"].flops == pytest.approx(2 * 16 * 96 * 33, rel=0.05)
    assert layers["MLP", "hidden_0"].shape == "[16, 96]"
    assert layers["MLP", "hidden_0"].output_bytes == 16 * 96 * 4
    assert layers["MLP", "hidden_0"].parameters == 40 * 96 + 96
    assert layers["MLP", "hidden_0"].parameter_bytes == 4 * (40 * 96 + 96)
    assert sum(layer.parameters for layer in found) == parameters_of(task, spec)


@pytest.mark.parametrize(
    ("model", "data", "sides"),
    [
        (MLP(widths=(256, 256)), "flat", {}),
        (CNN(features=(32, 64), dense=(128,)), "images", {"conv_0_0": 16, "conv_1_0": 8}),
    ],
    ids=["mlp", "cnn"],
)
def test_the_total_is_the_programs_own_count(model, data, sides):
    found, task, spec = rows(Classification(model=model), CARDS[data]())
    variables = jax.eval_shape(task.init, jax.random.key(0), spec)
    compiled = jax.jit(lambda v, b: task.outputs(v, b)).lower(variables, spec).compile()
    # The compiler leaves out the products with the padding around an image: of 3 n taps along a side 2 are beyond it.
    inner = {name: (1 - 2 / (3 * side)) ** 2 for name, side in sides.items()}
    ours = sum(layer.flops * inner.get(layer.path[-1], 1) for layer in found)
    assert ours == pytest.approx(compiled.cost_analysis()["flops"], rel=0.03)  # activations, biases and pooling


def test_a_model_with_batch_statistics_is_counted_once():
    found, task, spec = rows(Classification(model=CNN(features=(4,), dense=(8,), batch_norm=True)), CARDS["images"]())
    params = jax.eval_shape(task.init, jax.random.key(0), spec)["params"]
    assert sum(layer.parameters for layer in found) == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert len({layer.path[0] for layer in found}) == 1


KINDS = {"unrolled": {}, "scanned": {"blocks": "scanned"}, "remat": {"blocks": "scanned", "remat": "blocks"}}


@pytest.mark.parametrize("kind", KINDS)
def test_the_sums_for_a_language_model_are_the_same_for_unrolled_and_scanned_blocks(kind):
    L, D, F, V, T, B, H, G = 3, 32, 128, 50257, 10, 4, 4, 2
    model = LanguageModel(layers=L, width=D, heads=H, kv_heads=G, biases="none", positions="rotary", **KINDS[kind])
    task = NextToken(model=model).bind(GPT2Tokens(length=T).outline().card)
    found = layers_of(task, batch_spec(GPT2Tokens(length=T).outline(), B))
    assert (
        sum(layer.parameters for layer in found) == L * (2 * D * D + 2 * D * D // 2 + 2 * D * F + 4 * D) + V * D + 2 * D
    )
    dense = L * (2 * D * D + 2 * D * D // 2 + 2 * D * F) + V * D
    attention = L * 2 * T * T * D  # each position with every other, masked or not
    assert sum(layer.flops for layer in found) == 2 * B * (T * dense + attention)
    by_kind = {layer.path[-1]: layer for layer in found}
    assert by_kind["embedding"].flops == 2 * B * T * V * D
    block = by_kind["block_0" if kind == "unrolled" else "blocks"]
    assert block.flops == 2 * B * attention / (L if kind == "unrolled" else 1)
    assert block.output_bytes == 4 * B * T * D * (1 if kind == "unrolled" else L)
    assert block.shape == f"[{B}, {T}, {D}]"
    labels = [label.strip() for label, _ in _shortened(found)]
    if kind == "unrolled":
        assert "block_0 to 2" in labels
        assert "block_1" not in labels
        assert sum(layer.parameters for _, layer in _shortened(found)) == sum(layer.parameters for layer in found)
    else:
        assert "blocks" in labels


def test_both_players_are_shown_with_their_own_inputs():
    task = Adversarial(model=MLP(widths=(24,)), critic=MLP(widths=(24,)), latent=5)
    found, bound_task, spec = rows(task, Ring().open(), batch=8)
    layers = {layer.path: layer for layer in found}
    assert layers["critic", "hidden_0"].parameters == 2 * 24 + 24
    assert layers["model", "hidden_0"].parameters == 5 * 24 + 24
    assert layers["model", "hidden_0"].flops == 2 * 8 * 5 * 24
    assert layers["critic", "output"].shape == "[8, 1]"
    assert sum(layer.parameters for layer in found) == parameters_of(bound_task, spec)


def test_a_recurrent_cell_counts_every_step():
    found, task, spec = rows(Regression(model=RNN(cell="gru", widths=(12,))), CARDS["sequences"]())
    assert sum(layer.parameters for layer in found) == parameters_of(task, spec)
    flops = sum(layer.flops for layer in found)
    assert flops == pytest.approx(2 * 16 * 7 * (2 * 36 + 12 * 36) + 2 * 16 * 12, rel=0.05)
    # The loop is inside it: it is called, and answers, once.
    layer = next(layer for layer in found if layer.kind == "Recurrent")
    assert layer.output_bytes == 4 * (16 * 7 * 12 + 16 * 12)


@pytest.mark.parametrize("name", sorted(config.available()))
def test_the_size_a_configuration_states_is_its_own(name):
    """`jaxnets list` shows PARAMETERS without opening data or JAX; here they are counted."""
    loaded = config.load(name)
    assert loaded.parameters is not None, (
        f"configs/{name}.py does not say PARAMETERS; `jaxnets summary {name}` counts them"
    )
    try:
        data = loaded.experiment.data.outline()
    except DataError as error:
        pytest.skip(str(error))
    task, spec = bound(loaded.experiment.task, data, loaded.experiment.batch_size)
    assert parameters_of(task, spec) == loaded.parameters


def test_summary_of_a_large_model_allocates_nothing_and_needs_no_data(tmp_path):
    env = {"JAXNETS_DATA": str(tmp_path)}
    done = run_cli("summary", "llama_1b", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "llama_1b: 1,235,814,400 parameters, batch of 16" in said
    assert "parameters 4.94 GB" in said
    assert "optimizer 9.89 GB" in said
    tokens = 16 * 2048
    step = float(re.search(r"FLOPs of a step ([\d.]+) T", said)[1]) * 1e12
    # Six FLOPs a parameter and token, two more for what is computed again, and attention's own.
    assert 6 * tokens * 1.236e9 < step < 9.5 * tokens * 1.236e9
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_summary_compiles_with_its_flag(tmp_path):
    done = run_cli("summary", "digits_softmax", "--compile", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"temporary +[\d.]+ k?B", done.stdout), done.stdout
    assert re.search(r"arguments +[\d.]+ [kM]?B", done.stdout)


def test_the_list_has_size_and_score_and_is_quick(tmp_path):
    began = time.perf_counter()
    done = run_cli("list", cwd=tmp_path, env={"COLUMNS": "140"})
    assert time.perf_counter() - began < 10  # under load; 0.5 s otherwise
    narrow = run_cli("list", cwd=tmp_path, env={"COLUMNS": "60"})  # a pipe, which has room all the same
    assert narrow.stdout == done.stdout
    assert re.search(r"llama_1b .* 1,235,814,400 +not run", done.stdout)
    assert re.search(r"ring_gan .* modes ≥ 7 +1.5 min, 2 CPU cores", done.stdout)
    line = next(line for line in done.stdout.splitlines() if "gpt2_124m" in line)
    assert line.split()[:5] == ["gpt2_124m", "NextToken", "LanguageModel", "GPT2Tokens", "124,439,808"]
    for path in (ROOT / "configs").glob("*.py"):
        assert path.stem in done.stdout


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 "), (999, "999 "), (1500, "1.50 k"), (999_600, "1.00 M"), (123456, "123 k"), (5e12, "5.00 T")],
)
def test_numbers_are_shown_with_three_digits(number, text):
    assert show_count(number) == text
