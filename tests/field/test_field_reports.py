"""Situations that people reported against other trainers, tried here; `docs/reliability.md` says which report each is from."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, assert_same_bits

from jaxnets import models, optim, tasks
from jaxnets.checkpoints.read_leaves import read_leaves
from jaxnets.checkpoints.retention import Keep, best_step
from jaxnets.checkpoints.step_folders import StepFolders
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import JaxnetsError
from jaxnets.core.types import Tokens
from jaxnets.data import Dataset, InMemory, Tabular, from_arrays, from_graph, from_graphs
from jaxnets.data.dataset import TokenIds
from jaxnets.models.graph import Graph
from jaxnets.ops.tokens import SPECIAL
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.runs.train import train
from jaxnets.steps.precision import Precision
from jaxnets.tasks.sequence_to_sequence import _measure


def fit(model, data, *, test=None, run_dir=None, **options):
    """As `jaxnets.fit`, on one device."""
    task = model if isinstance(model, tasks.Task) else tasks.Classification(model=model)
    data = data if isinstance(data, Dataset) else from_arrays(*data, test=test, kind=task.given_targets)
    options.setdefault("batch_size", min(32, data.card.examples["train"]))
    experiment = Experiment(task=task, data=InMemory(data.name), **options)
    mesh = make_mesh(MeshShape(), devices=jax.devices()[:1])
    return train(experiment, dataset=data, mesh=mesh, run_dir=run_dir, progress="none")


NAMES = (*SPECIAL, *"abcdef")


@pytest.fixture(scope="module")
def rows():
    """Examples of two classes, and labels that tell nothing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 5)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(int), rng.integers(0, 3, 240)


def still(rate=1.0, **options):
    """Plain gradient descent, of which one step shows the gradient."""
    return optim.SGD(learning_rate=rate, momentum=0.0, schedule=optim.Constant(), **options)


def test_how_often_it_is_evaluated_changes_no_bit_of_the_training(rows):
    x, y, _ = rows
    states = [
        fit(models.MLP(widths=(8,), dropout=0.3), (x, y), steps=12, eval_every=every, eval_batch_size=size).state
        for every, size in ((0, 512), (3, 7))
    ]
    assert_same_bits(*states)


def test_a_score_that_is_no_number_is_never_the_best():
    nan = math.nan
    measured = {1: {"score": nan}, 2: {"score": 0.5}, 3: {"score": 0.4}, 4: {"score": nan}}
    assert best_step(measured, "score", "max") == 2
    assert best_step(measured, "score", "min") == 3
    assert best_step({1: {"score": nan}}, "score", "max") is None


@pytest.mark.slow
def test_the_weights_kept_as_best_have_the_best_score_and_others_carry_none(rows, tmp_path):
    x, _, noise = rows
    data = from_arrays(x, noise)
    run = fit(
        models.MLP(widths=(32,)),
        data,
        steps=60,
        eval_every=20,
        save_every=10,
        keep=Keep(best="accuracy", mode="max", last=9),
        optimizer=optim.AdamW(learning_rate=1e-2),
        run_dir=tmp_path / "run",
    )
    folders, data = StepFolders(run.directory / "checkpoints"), run.parts.dataset
    for step in folders.complete:
        manifest = folders.manifest(step)
        assert bool(manifest.metrics) == (
            step % 20 == 0
        )  # a save between evaluations is not filed under the last score
        if not manifest.metrics:
            continue
        leaves = {k.removeprefix("params/"): v for k, v in read_leaves(folders.path(step), manifest.leaves).items()}
        hidden = np.maximum(
            np.asarray(data.prepare(data.validation["inputs"])) @ leaves["hidden_0/kernel"] + leaves["hidden_0/bias"], 0
        )
        said = (hidden @ leaves["output/kernel"] + leaves["output/bias"]).argmax(axis=1)
        assert manifest.metrics["accuracy"] == pytest.approx((said == data.validation["targets"]).mean(), abs=1e-6)


def test_macro_f1_counts_a_label_that_does_not_occur_as_documented(rows):
    x, y, _ = rows
    labels = np.stack([y, 1 - y, np.zeros_like(y)], axis=1)
    task = tasks.MultiLabel(model=models.MLP(widths=(8,)))
    run = fit(task, (x[:200], labels[:200]), test=(x[200:], labels[200:]), steps=20)
    said, true, scores = run.predict(x[200:]), labels[200:], []
    for label in range(3):
        hits = ((said[:, label] == 1) & (true[:, label] == 1)).sum()
        total = (said[:, label] == 1).sum() + (true[:, label] == 1).sum()
        scores.append(2 * hits / total if total else 0.0)  # scikit-learn's zero_division=0
    assert run.evaluate()["macro_f1"] == pytest.approx(np.mean(scores), abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_padding_does_not_change_a_loss_or_its_smoothing(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(5, 7, 11)).astype(np.float32), rng.integers(1, 11, (5, 7))
    for row in range(5):
        targets[row, row + 2 :] = 0
    batch = {"targets": jnp.asarray(targets), "mask": jnp.ones(5)}
    got = _measure(jnp.asarray(logits), batch, smoothing)["loss"]
    right = torch.nn.functional.cross_entropy(
        torch.tensor(logits).reshape(-1, 11),
        torch.tensor(targets).reshape(-1),
        ignore_index=0,
        label_smoothing=smoothing,
    )
    assert float(got.sum / got.weight) == pytest.approx(float(right), abs=1e-5)


@pytest.mark.slow
def test_micro_batches_with_unequal_numbers_of_tokens_give_the_update_of_the_whole():
    rng = np.random.default_rng(0)
    source, target = (rng.integers(len(SPECIAL), len(NAMES), (64, 8)).astype(np.int32) for _ in range(2))
    for row in range(64):
        length = 1 + (row * 7) % 8
        source[row, length:] = target[row, length:] = 0
    split = {"inputs": source, "targets": target}
    tokens = Tokens(NAMES, "characters")
    data = Dataset("pairs", split, split, class_names=NAMES, target_kind="sequence", prepare=TokenIds(), tokens=tokens)
    model = models.Seq2SeqTransformer(width=8, heads=2, layers=1, length=16)
    task = tasks.SequenceToSequence(model=model, written="none")
    options = {"steps": 1, "batch_size": 16, "optimizer": still()}
    states = [fit(task, data, micro_batches=parts, **options).state.params for parts in (1, 8)]
    assert_close(*states, atol=1e-5)


@pytest.fixture(scope="module")
def texts():
    """Texts of unequal lengths, as tokens."""
    x = np.random.default_rng(0).integers(len(SPECIAL), len(NAMES), (64, 10)).astype(np.int32)
    for row in range(64):
        x[row, 2 + row % 9 :] = 0
    split = {"inputs": x, "targets": (x[:, 0] % 2).astype(np.int32)}
    return Dataset(
        "texts", split, split, class_names=("a", "b"), prepare=TokenIds(), tokens=Tokens(NAMES, "characters")
    )


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(models.RNN(widths=(4,), bidirectional=True), marks=pytest.mark.slow),
        pytest.param(
            models.TransformerEncoder(width=8, heads=2, layers=1, length=32, pool="token"), marks=pytest.mark.slow
        ),
    ],
    ids=["both ways", "attention"],
)
def test_the_other_texts_of_a_batch_do_not_change_a_prediction(texts, model):
    run = fit(tasks.Classification(model=model), texts, steps=3)
    x = texts.test["inputs"]
    said = run.outputs(x)
    np.testing.assert_allclose(run.outputs(np.pad(x, ((0, 0), (0, 9)))), said, atol=1e-5)
    np.testing.assert_allclose(run.outputs(x[3:4, : 2 + 3]), said[3:4], atol=1e-5)
    assert np.isfinite(run.outputs(np.zeros((1, 10), np.int32))).all()  # a text of nothing but padding


@pytest.mark.slow
def test_tokens_that_no_embedding_has_are_refused():
    ids = np.random.default_rng(0).integers(0, 7, (16, 9)).astype(np.int32)
    split = {"inputs": ids[:, :-1], "targets": ids[:, 1:]}

    def data(split):
        return Dataset("t", split, split, class_names=tuple("abcdefg"), target_kind="token", prepare=TokenIds())

    model = models.LanguageModel(width=4, heads=2, layers=1, length=8)
    run = fit(tasks.NextToken(model=model), data(split), steps=1)
    for bad in (7, -1):
        wrong = ids[:2, :-1].copy()
        wrong[0, 3] = bad
        with pytest.raises(JaxnetsError):
            run.predict(wrong)
        with pytest.raises(JaxnetsError):
            data({**split, "inputs": wrong, "targets": wrong})
    with pytest.raises(JaxnetsError):
        fit(tasks.NextToken(model=model.clone(vocab_size=5)), data(split), steps=1)


@pytest.mark.parametrize("schedule", [optim.WarmupCosine, optim.WarmupLinear])
def test_schedules_move_at_the_first_step_and_never_leave_their_bounds(schedule):
    for total in (1, 2, 3, 10, 100):
        for warmup in (0.0, 0.05, 0.5, 1.0):
            rate = schedule(warmup=warmup).build(1.0, total)
            rates = [float(rate(step)) for step in range(total)]
            assert rates[0] > 0
            assert 0 <= min(rates) <= max(rates) <= 1 + 1e-6


def test_the_cosine_counts_from_the_end_of_the_warm_up():
    rate = optim.WarmupCosine(warmup=0.1).build(1.0, 1000)
    steps = np.arange(100, 1000)
    right = 0.5 * (1 + np.cos(np.pi * (steps - 100) / 900))
    np.testing.assert_allclose(jax.vmap(rate)(jnp.asarray(steps)), right, atol=1e-6)


@pytest.mark.parametrize("kind", [models.GCN, models.GraphSAGE, models.GAT, models.GIN])
def test_nodes_without_edges_have_finite_outputs(kind):
    nodes = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 3)), jnp.float32)
    real = jnp.asarray([[True] * 5 + [False]])
    graph = Graph(nodes, jnp.asarray([[[0, 1], [1, 0], [1, 2], [2, 1]]]), real, jnp.ones((1, 4), bool))
    model = kind(widths=(4,), dropout=0.0, pool="none", outputs=2)
    variables = model.init(jax.random.key(0), graph)
    assert np.isfinite(model.apply(variables, graph)).all()
    with pytest.raises(JaxnetsError, match="join a node to itself"):  # which would count twice
        from_graph(np.ones((6, 3), np.float32), np.array([[0, 1], [2, 2]]), np.zeros(6, int), train=[0], test=[1])


@pytest.mark.slow
def test_each_graph_gets_its_own_prediction():
    rng = np.random.default_rng(0)

    def graph(n):
        edges = np.stack([np.arange(n - 1), np.arange(1, n)], 1) if n > 2 else np.zeros((0, 2), int)
        return rng.normal(size=(n, 2)).astype(np.float32), edges

    with pytest.raises(JaxnetsError):
        from_graphs([graph(0), graph(3)] * 5, np.arange(10) % 2)
    data = from_graphs([graph(1 + i % 4) for i in range(40)], np.arange(40) % 2)
    run = fit(tasks.GraphClassification(model=models.GIN(widths=(4,), pool="max")), data, steps=2)
    asked = {k: v for k, v in data.test.items() if k != "targets"}
    said = run.outputs(asked)
    alone = [run.outputs({k: v[i : i + 1] for k, v in asked.items()})[0] for i in range(len(said))]
    assert len(said) == len(data.test["targets"])
    np.testing.assert_allclose(said, alone, atol=1e-4)


class Masks(nn.Module):
    """Remembers which numbers two layers of dropout let through."""

    outputs: int = 2

    @nn.compact
    def __call__(self, x, *, train=False):
        kept = self.variable("batch_stats", "kept", lambda: jnp.zeros((2, 32)))
        drawn = [nn.Dropout(0.5, deterministic=not train)(jnp.ones(32)) for _ in range(2)]
        if train:
            kept.value = jnp.stack(drawn)
        return nn.Dense(self.outputs)(x)


@pytest.mark.slow
def test_draws_differ_from_step_to_step_layer_to_layer_and_seed_to_seed(rows):
    x, y, _ = rows

    def masks(steps, seed=0):
        run = fit(Masks(), (x, y), steps=steps, seed=seed, batch_size=32)
        return np.asarray(run.state.model_state["batch_stats"]["kept"])

    drawn = [masks(1), masks(2), masks(1, seed=1)]
    assert len({each.tobytes() for each in drawn}) == 3
    assert all((each[0] != each[1]).any() for each in drawn)
    np.testing.assert_array_equal(masks(1), drawn[0])


@pytest.mark.slow
def test_gradients_are_clipped_in_their_own_unit_under_a_loss_scale(rows):
    x, y, _ = rows
    exact, scaled = (
        fit(
            models.MLP(widths=(8,)),
            (x, y),
            steps=1,
            batch_size=32,
            precision=Precision(compute),
            optimizer=still(clip_norm=0.05),
        ).state.params
        for compute in ("float32", "float16")
    )
    assert_close(exact, scaled, atol=1e-3)


def test_metrics_of_half_precision_outputs_are_summed_in_full_precision(rows):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2600, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    run = fit(
        models.MLP(widths=(8,)),
        (x[:600], y[:600]),
        test=(x[600:], y[600:]),
        steps=30,
        precision=Precision("bfloat16"),
        eval_batch_size=2000,
    )
    measured = run.evaluate()
    assert measured["examples"] == 2000
    assert measured["accuracy"] == pytest.approx((run.predict(x[600:]) == y[600:]).mean(), abs=1e-6)


def test_held_out_rows_of_sorted_data_have_every_class_and_are_not_trained_on(tmp_path):
    y = np.repeat([0, 1, 2], 60)
    x = (np.random.default_rng(0).normal(size=(180, 2)) + 5 * y[:, None]).astype(np.float32)
    assert (np.bincount(from_arrays(x, y).test["targets"], minlength=3) > 0).all()
    (tmp_path / "sorted.csv").write_text(
        "a,b,label\n" + "".join(f"{a},{b},{'xyz'[k]}\n" for (a, b), k in zip(x, y, strict=True)), encoding="utf-8"
    )
    table = Tabular(str(tmp_path / "sorted.csv"), target="label").open()
    assert (np.bincount(table.test["targets"], minlength=3) > 0).all()
    one, other = (from_arrays(x, y, test=(x * scale, y)) for scale in (1, 1000))
    assert one.prepare == other.prepare
