"""Targets that do not count, and texts longer than the training window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, drawn, run_here

import jaxnets
from jaxnets.core.errors import DataError
from jaxnets.core.types import Tokens
from jaxnets.data import Dataset
from jaxnets.data.dataset import TokenIds
from jaxnets.models import (
    RNN,
    HybridLanguageModel,
    LanguageModel,
    Sampling,
    Seq2SeqTransformer,
    TransformerEncoder,
    generate,
)
from jaxnets.ops.tokens import SPECIAL
from jaxnets.tasks import NextToken, SequenceToSequence
from jaxnets.tasks.language import _measure

# --- targets that do not count


def answers(rows=16, ignored=4):
    ids = np.random.default_rng(0).integers(0, 7, (rows, 9)).astype(np.int32)
    targets = ids[:, 1:].copy()
    targets[np.random.default_rng(1).random(targets.shape) < ignored / 8] = -100
    targets[0] = -100  # a row of which nothing counts
    return {"inputs": ids[:, :-1], "targets": targets}


def answers_data(split):
    return Dataset("answers", split, split, class_names=tuple("abcdefg"), target_kind="token", prepare=TokenIds())


def test_loss_and_gradient_of_ignored_targets_are_torchs():
    torch = pytest.importorskip("torch")
    split = answers()
    logits = np.random.default_rng(2).normal(size=(16, 8, 7)).astype(np.float32)
    there = torch.tensor(logits, requires_grad=True)
    targets = torch.tensor(split["targets"]).long()
    wanted = torch.nn.functional.cross_entropy(there.reshape(-1, 7), targets.reshape(-1), ignore_index=-100)
    wanted.backward()

    def ours(logits):
        batch = {"targets": jnp.asarray(split["targets"]), "mask": jnp.ones(16)}
        mean = _measure(logits, batch, NextToken(model=LanguageModel())._weights(batch))["loss"]
        return mean.sum / mean.weight

    value, gradient = jax.jit(jax.value_and_grad(ours))(logits)
    assert float(value) == pytest.approx(wanted.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, there.grad.numpy(), atol=1e-7)


@pytest.mark.slow
def test_means_are_over_targets_that_count_across_micro_batches_and_evaluation_batches():
    torch = pytest.importorskip("torch")
    split = answers(rows=40)
    task = NextToken(model=LanguageModel(width=8, heads=2, layers=1, length=8))
    options = {"steps": 1, "batch_size": 16, "progress": "none", "log_every": 1}
    runs = [jaxnets.fit(task, answers_data(split), micro_batches=count, **options) for count in (1, 2)]
    assert_close(runs[0].variables, runs[1].variables, atol=1e-6)
    run = runs[0]
    logits = torch.tensor(np.array(jax.jit(run.parts.task.model.apply)(run.variables, split["inputs"])))
    targets = torch.tensor(split["targets"]).long()
    wanted = torch.nn.functional.cross_entropy(logits.reshape(-1, 7), targets.reshape(-1), ignore_index=-100)
    counted, found = targets != -100, run.evaluate()
    assert found["examples"] == int(counted.sum())
    assert found["loss"] == pytest.approx(float(wanted), rel=1e-5)
    assert found["accuracy"] == pytest.approx(float((logits.argmax(-1) == targets)[counted].float().mean()), rel=1e-5)
    assert found["perplexity"] == pytest.approx(float(wanted.exp()), rel=1e-5)


@pytest.mark.slow
def test_a_batch_without_targets_that_count_changes_nothing():
    split = answers(rows=64)
    quiet = {**split, "targets": np.full_like(split["targets"], -100)}
    quiet["targets"][7, 0] = 3
    task = NextToken(model=LanguageModel(width=8, heads=2, layers=1, length=8))
    run = jaxnets.fit(task, answers_data(quiet), steps=8, batch_size=8, progress="none")
    assert int(run.state.guard["left_out"]) == 7
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.variables))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1, "hold tokens from -1 to 6, but there are 7, numbered from 0, and -100 marks a token that does not count"),
        (7, "hold tokens from 0 to 7"),
        (-100, "every one of the training targets is -100"),
    ],
)
def test_other_negative_targets_and_splits_without_targets_are_refused(value, message):
    split = answers()
    targets = (
        np.full_like(split["targets"], -100) if value == -100 else np.where(split["targets"] < 0, 0, split["targets"])
    )
    targets[0, 0] = value
    with pytest.raises(DataError, match=message):
        answers_data({**split, "targets": targets})
    with pytest.raises(DataError, match="inputs hold tokens from -100"):
        answers_data({**split, "inputs": np.where(split["inputs"] == 0, -100, split["inputs"])})


def test_ignored_targets_of_a_sequence_are_padding():
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(4, 9, (8, 5)).astype(np.int32), rng.integers(4, 9, (8, 6)).astype(np.int32)
    targets[:, 3:] = [2, 0, 0]
    names = (*SPECIAL, *"abcde")
    found, variables = [], None
    for padding in (0, -100):
        split = {"inputs": inputs, "targets": np.where(targets == 0, padding, targets)}
        data = Dataset(
            "pairs",
            split,
            split,
            class_names=names,
            target_kind="sequence",
            prepare=TokenIds(),
            tokens=Tokens(names, "characters"),
        )
        model = Seq2SeqTransformer(layers=1, width=8, heads=2, length=8)
        task = SequenceToSequence(model=model, written="exact").bind(data.card)
        batch = {**split, "mask": np.ones(8, np.float32)}
        variables = drawn(task.model, task.inputs_of(batch)) if variables is None else variables
        means = jax.jit(task.metrics)(variables, batch)
        found.append({name: (float(mean.sum), float(mean.weight)) for name, mean in means.items()})
        assert task.exhibits(np.full((8, 6), 4), split, data.card)
    assert found[0] == found[1]
    assert found[0]["loss"][1] == 8 * 4


def test_a_report_names_a_last_target_that_does_not_count():
    split = answers()
    split["targets"][:, -1] = -100
    model = LanguageModel(width=8, heads=2, layers=1, length=8)
    task = NextToken(model=model)
    table = task.exhibits(np.zeros((16, 7)), split, answers_data(split).card)[0]
    assert {row[2] for row in table.rows} == {"(does not count)"}


# --- past the window


def ends_alike(model, variables, tokens):
    """The cache and one token at a time give the logits of the whole text at once."""
    go_on = jax.jit(model.apply)
    whole = go_on(variables, tokens)
    cache, pieces = model.empty_cache(len(tokens), tokens.shape[1]), []
    for part in (tokens[:, :6], tokens[:, 6:7], tokens[:, 7:8], tokens[:, 8:]):
        logits, cache = go_on(variables, part, cache=cache)
        pieces.append(logits)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=3e-5)
    return whole


@pytest.mark.parametrize(
    ("positions", "blocks"),
    [("rotary", "scanned"), ("alibi", "unrolled"), ("sinusoidal", "scanned"), ("none", "scanned")],
)
def test_models_without_a_table_of_positions_generate_beyond_the_window(positions, blocks):
    model = LanguageModel(vocab_size=7, layers=2, width=8, heads=2, length=5, positions=positions, blocks=blocks)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, 14)), jnp.int32)
    variables = drawn(model, tokens[:, :4])
    whole = ends_alike(model, variables, tokens)
    wide = model.clone(length=64)
    np.testing.assert_array_equal(whole, jax.jit(wide.apply)(variables, tokens))
    if positions == "rotary":  # what is written is what the whole text says, one token at a time
        options = {"key": jax.random.key(0), "sampling": Sampling(temperature=0)}
        said = generate(model, variables, tokens[:, :7], 7, **options)
        text, whole_text = np.array(tokens), jax.jit(model.apply)
        for at in range(7, 14):
            text[:, at] = whole_text(variables, text)[:, at - 1].argmax(-1)
        np.testing.assert_array_equal(said, text[:, 7:])


@pytest.mark.parametrize("model", [
    HybridLanguageModel(vocab_size=7, layers=3, width=8, heads=2, window=4),
    RNN(vocab_size=7, outputs=7, widths=(8,), answer="every"),
], ids=["hybrid", "rnn"])  # fmt: skip
def test_recurrent_models_have_no_window_to_pass(model):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, 14)), jnp.int32)
    variables = drawn(model, tokens)
    ends_alike(model, variables, tokens)


def test_a_table_of_positions_limits_the_text_with_an_error():
    model = LanguageModel(vocab_size=7, layers=1, width=8, heads=2, length=8)
    variables = drawn(model, jnp.zeros((1, 4), jnp.int32))
    with pytest.raises(ValueError, match="the size of its table of positions; request fewer, or train with positions"):
        generate(model, variables, np.ones((1, 4), np.int32), 5, key=jax.random.key(0))
    encoder = TransformerEncoder(vocab_size=9, layers=1, width=8, heads=2, length=4, outputs=2)
    long = jnp.ones((1, 9), jnp.int32)
    weights, wide = drawn(encoder, long[:, :4]), encoder.clone(length=32)
    np.testing.assert_array_equal(jax.jit(encoder.apply)(weights, long), jax.jit(wide.apply)(weights, long))
    with pytest.raises(ValueError, match="9 tokens do not fit TransformerEncoder.length 4"):
        jax.eval_shape(encoder.clone(positions="learned").init, jax.random.key(0), long)


@pytest.mark.slow
def test_the_command_line_generates_beyond_the_window_with_a_note(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"the quick brown fox.\r\n" * 30)
    (tmp_path / "small.py").write_text(
        "from jaxnets.config import Experiment\nfrom jaxnets.data import Text\nfrom jaxnets.models import LanguageModel\n"
        "from jaxnets.tasks import NextToken\n"
        "def config():\n    model = LanguageModel(layers=1, heads=2, width=8, length=8, positions='rotary')\n"
        "    return Experiment(task=NextToken(model=model), data=Text('x.txt', length=8), steps=2, batch_size=8)\n"
    )
    assert run_here("train", "small.py", "--run-dir", "run", cwd=tmp_path).returncode == 0
    done = run_here("generate", "run", "--prompt", "fox\r\n", "--tokens", 20, cwd=tmp_path)
    assert (done.returncode, len(done.stdout)) == (0, 25)
    assert "the text has 24 tokens, more than the 8 of a training window" in done.stderr
