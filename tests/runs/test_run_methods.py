"""Methods of a trained run: fit, predict with names, probabilities, top_k, evaluate on other data."""

import json
import shutil

import numpy as np
import pytest
from conftest import assert_same_bits, replace, run_here

import jaxnets
from jaxnets.core.errors import DataError, RunDirectoryError, UsageError
from jaxnets.models import MLP
from jaxnets.optim import AdamW, Constant, WarmupCosine
from jaxnets.runs.open import open_run
from jaxnets.runs.train import train

pandas = pytest.importorskip("pandas")
QUIET = {"progress": "none"}


@pytest.fixture(scope="module")
def words():
    """Three classes with names, in a plane."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 240)
    x = (np.array([[0, 4], [4, 0], [-4, -4]])[y] + rng.normal(size=(240, 2))).astype(np.float32)
    return x, np.array(["ant", "bee", "cat"])[y]


@pytest.fixture(scope="module")
def run(words):
    return jaxnets.fit(MLP(widths=(16,)), words, steps=60, seed=1, optimizer=AdamW(3e-2), **QUIET)


def constant(steps):
    return {"steps": steps, "optimizer": AdamW(1e-2, schedule=Constant()), "seed": 3, **QUIET}


def test_params_are_those_that_the_model_applies(run, words):
    task = run.parts.task
    prepared = run.parts.dataset.prepare(words[0][:5])
    np.testing.assert_allclose(
        task.model.apply({"params": run.params}, prepared), run.outputs(words[0][:5]), rtol=1e-6, atol=1e-6
    )


def test_training_further_equals_the_longer_run_and_does_not_change_the_first(words):
    short = jaxnets.fit(MLP(widths=(16,), dropout=0.2), words, **constant(20))
    before = short.outputs(words[0][:3])
    longer = short.fit(steps=20, **QUIET)
    whole = jaxnets.fit(MLP(widths=(16,), dropout=0.2), words, **constant(40))
    assert_same_bits(longer.state, whole.state)
    assert [r["step"] for r in longer.history.records if r["split"] == "train"] == sorted(
        r["step"] for r in longer.history.records if r["split"] == "train"
    )
    assert longer.history.last()["step"] == 40
    assert int(short.state.step) == 20
    np.testing.assert_array_equal(short.outputs(words[0][:3]), before)


@pytest.mark.slow
def test_training_further_in_a_directory_and_from_an_opened_run(words, tmp_path):
    first = jaxnets.fit(MLP(widths=(16,)), words, run_dir=tmp_path / "run", **constant(20))
    longer = first.fit(steps=10, **QUIET)
    whole = jaxnets.fit(MLP(widths=(16,)), words, **constant(30))
    assert_same_bits(longer.state, whole.state)
    opened = open_run(tmp_path / "run", dataset=longer.parts.dataset)
    assert_same_bits(opened.fit(steps=5, **QUIET).state, jaxnets.fit(MLP(widths=(16,)), words, **constant(35)).state)
    with pytest.raises(UsageError, match="has continued to step 35"):
        longer.fit(steps=5)
    listed = json.loads((tmp_path / "run" / "extended.json").read_text())
    assert [(one["before"], one["after"], one["at"]) for one in listed] == [(20, 30, 20), (30, 35, 30)]


@pytest.mark.slow
def test_a_run_opened_without_its_data_cannot_train(words, tmp_path):
    jaxnets.fit(MLP(widths=(16,)), words, run_dir=tmp_path / "run", **constant(5))
    with pytest.raises(UsageError, match="opened without its data"):
        open_run(tmp_path / "run").fit(steps=5)


def test_epochs_or_steps(run):
    with pytest.raises(UsageError, match="one of them"):
        run.fit()
    with pytest.raises(UsageError, match="one of them"):
        run.fit(steps=3, epochs=1)
    longer = run.fit(epochs=2, **QUIET)
    assert int(longer.state.step) == 60 + 2 * (192 // run.experiment.batch_size)


@pytest.mark.slow
def test_a_run_that_stopped_early_continues_and_keeps_the_better_weights(words):
    stop = jaxnets.EarlyStop("accuracy", patience=1)
    ended = jaxnets.fit(MLP(widths=(16,)), words, stop=stop, eval_every=5, **constant(400))
    at = int(ended.state.step)
    assert at < 400
    longer = ended.fit(steps=30, **QUIET)
    assert int(longer.state.step) == at + 30
    assert longer.best.value >= ended.best.value


@pytest.mark.slow
def test_changes_in_the_schedule_are_printed(experiment, blobs, tmp_path, capsys):
    shorter = replace(experiment, optimizer=AdamW(1e-2, schedule=WarmupCosine(warmup=0.1)))
    train(shorter, dataset=blobs, run_dir=tmp_path / "run", progress="none")
    with pytest.raises(RunDirectoryError, match=r"--extend, or open_run"):
        train(replace(shorter, steps=40), dataset=blobs, run_dir=tmp_path / "run", progress="none")
    longer = train(replace(shorter, steps=40), dataset=blobs, run_dir=tmp_path / "run", progress="lines", extend=True)
    said = capsys.readouterr().err
    assert "the run continues from step 20 to 40 (it was configured for 20)" in said
    assert "at step 20 it is" in said
    assert int(longer.state.step) == 40
    # The same command again finds it done, and asks for no more.
    again = train(replace(shorter, steps=40), dataset=blobs, run_dir=tmp_path / "run", progress="none", extend=True)
    assert_same_bits(again.state, longer.state)


def test_names_probabilities_and_the_most_probable(run, words):
    x, y = words
    numbers, names = run.predict(x), run.predict(x, names=True)
    assert [run.class_names[i] for i in numbers] == names.tolist()
    assert (names == y).mean() > 0.9
    probabilities = run.probabilities(x)
    outputs = run.outputs(x).astype(np.float64)
    expected = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5, atol=1e-7)
    best = run.top_k(x[:4], 2)
    for row, place in zip(best, range(4), strict=True):
        assert [name for name, _ in row] == [run.class_names[c] for c in np.argsort(-probabilities[place])[:2]]
        assert row[0][1] == pytest.approx(probabilities[place].max())
    with pytest.raises(UsageError, match="k is from 1 to 3"):
        run.top_k(x, 4)


def test_labels_have_names_too_and_numbers_have_none():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3)).astype(np.float32)
    tagged = jaxnets.from_arrays(x, (x > 0).astype(np.float32), class_names=("a", "b", "c"), kind="labels")
    labels = jaxnets.fit(MLP(widths=(8,)), tagged, steps=80, optimizer=AdamW(3e-2), **QUIET)
    found = labels.predict(x[:6], names=True)
    assert found[0] == [name for name, on in zip("abc", labels.predict(x[:6])[0], strict=True) if on]
    np.testing.assert_allclose(labels.probabilities(x), 1 / (1 + np.exp(-labels.outputs(x))), rtol=1e-5, atol=1e-6)
    values = jaxnets.fit(MLP(widths=(8,)), (x, x[:, 0]), steps=5, **QUIET)
    with pytest.raises(UsageError, match="gives no probabilities"):
        values.probabilities(x)
    with pytest.raises(UsageError, match="names are those of classes"):
        values.predict(x, names=True)
    assert values.evaluate((x, x[:, 0])).keys() == values.evaluate().keys()


def test_evaluate_takes_other_data_in_the_form_of_the_training_data(run, words):
    x, y = words
    test = run.parts.dataset.test
    whole = run.evaluate()
    assert run.evaluate(test) == pytest.approx(whole, rel=1e-6)
    assert run.evaluate(run.parts.dataset) == pytest.approx(whole, rel=1e-6)
    by_name = run.evaluate((x[:50], y[:50]))
    assert by_name["examples"] == 50
    assert by_name["accuracy"] == pytest.approx((run.predict(x[:50], names=True) == y[:50]).mean())
    with pytest.raises(DataError, match="'dog' is not among"):
        run.evaluate((x[:2], ["dog", "ant"]))
    with pytest.raises(DataError, match="one for each example"):
        run.evaluate((x[:3], y[:2]))
    with pytest.raises(UsageError, match="'test', 'validation'"):
        run.evaluate(x)


def test_the_history_as_a_frame(run):
    frame = run.history.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == len(run.history)
    held = frame[frame.split == "test"]
    assert held.accuracy.iloc[-1] == run.history.last()["accuracy"]


CONFIG = """
from jaxnets import Callback
from jaxnets.config import Experiment
from jaxnets.data import TwoSpirals
from jaxnets.models import MLP
from jaxnets.optim import SGD, WarmupCosine
from jaxnets.tasks import Classification

class Count(Callback):
    def started(self, run):
        print("a hook saw the start")

def hooks():
    return [Count()]

def config():
    return Experiment(
        task=Classification(model=MLP(widths=(8,))), data=TwoSpirals(), steps=10, batch_size=16,
        optimizer=SGD(1e-1, schedule=WarmupCosine(warmup=0.2)),
    )
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("extended")
    (path / "spirals.py").write_text(CONFIG)
    done = run_here("train", "spirals.py", cwd=path)
    assert done.returncode == 0, done.stderr
    assert "a hook saw the start" in done.stdout
    return path


def test_a_run_that_resumes_without_its_callbacks_prints_a_note(experiment, blobs, tmp_path, recwarn):
    def go_on(hooks, stop_at):
        recwarn.clear()
        base = replace(experiment, steps=6, eval_every=0)
        train(base, dataset=blobs, run_dir=tmp_path / "run", hooks=hooks, stop_at=stop_at, **QUIET)
        return [str(w.message) for w in recwarn if "callbacks" in str(w.message)]

    assert go_on([jaxnets.Callback()], 2) == []
    (said,) = go_on([], None)
    assert "was trained with callbacks (Callback) and continues without them" in said
    assert go_on([], None) == []  # it is complete


@pytest.mark.slow
def test_a_run_resumed_by_its_directory_reports_that_its_callbacks_are_missing(folder):
    shutil.copytree(folder / "runs" / "spirals", folder / "cut")
    done = run_here("train", "cut", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "callbacks" not in done.stderr  # it is complete
    done = run_here("train", "cut", "--extend", 2, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("was trained with callbacks (Count) and continues without them") == 1
    assert f"jaxnets train FILE.py --run-dir {folder / 'cut'}" in done.stderr
    done = run_here("train", "spirals.py", "--run-dir", "cut", "--extend", 4, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "callbacks" not in done.stderr
    assert "a hook saw the start" in done.stdout
    shutil.rmtree(folder / "cut")


@pytest.mark.slow
def test_repeating_extend_changes_nothing(folder):
    done = run_here("train", "spirals.py", "--extend", 6, "--stop-at", 13, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "continues from step 10 to 16" in done.stderr
    assert "stopped at step 13 of 16" in done.stderr
    done = run_here("train", "spirals.py", "--extend", 6, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "continues" not in done.stderr
    assert int(open_run(folder / "runs" / "spirals").state.step) == 16
    refused = run_here("train", "spirals.py", cwd=folder)
    assert refused.returncode == 1
    assert "--extend 6" in refused.stderr
    by_directory = run_here("train", "runs/spirals", "--extend", 9, cwd=folder)
    assert by_directory.returncode == 0, by_directory.stderr
    assert int(open_run(folder / "runs" / "spirals").state.step) == 19


@pytest.mark.slow
def test_epochs_count_passes_and_smoke_leaves_no_files(folder):
    done = run_here("train", "spirals.py", "--epochs", 2, "--run-dir", "epochs", cwd=folder)
    assert done.returncode == 0, done.stderr
    run = open_run(folder / "epochs")
    assert int(run.state.step) == 2 * (run.parts.dataset.card.examples["train"] // 16)
    before = sorted(path.name for path in folder.iterdir())
    done = run_here("train", "spirals.py", "--smoke", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "resuming run at step 1 of 2" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == before
    refused = run_here("train", "spirals.py", "--smoke", "--epochs", 2, cwd=folder)
    assert refused.returncode == 2


def test_predictions_as_lines_as_csv_and_as_json_lines(folder, tmp_path):
    run = open_run(folder / "epochs") if (folder / "epochs").exists() else open_run(folder / "runs" / "spirals")
    place = run.directory
    x = run.parts.dataset.test["inputs"][:7]
    np.save(tmp_path / "x.npy", x)
    best = run.top_k(x, 2)
    lines = run_here("predict", place, "x.npy", "--top-k", 2, cwd=tmp_path)
    assert lines.stdout.splitlines()[0] == "  ".join(f"{name} {p:.4f}" for name, p in best[0])
    assert run_here("predict", place, "x.npy", "--output", "p.csv", "--top-k", 2, cwd=tmp_path).returncode == 0
    table = pandas.read_csv(tmp_path / "p.csv", dtype={"prediction": str, "prediction_2": str})
    assert table.columns.tolist() == ["row", "prediction", "probability", "prediction_2", "probability_2"]
    assert table.prediction.tolist() == [row[0][0] for row in best]
    np.testing.assert_allclose(table.probability_2, [row[1][1] for row in best])
    assert run_here("predict", place, "x.npy", "--output", "p.jsonl", cwd=tmp_path).returncode == 0
    records = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [r["prediction"] for r in records] == run.predict(x, names=True).tolist()
    np.testing.assert_allclose([r["probability"] for r in records], run.probabilities(x).max(axis=1), rtol=1e-6)
    refused = run_here("predict", place, "x.npy", "--output", "p.txt", cwd=tmp_path)
    assert refused.returncode == 2
    assert ".jsonl" in refused.stderr


def test_another_encoding_and_a_stop_without_validation_are_refused(run, words):
    x, y = words
    renamed = jaxnets.from_arrays(x, np.where(y == "ant", "aphid", y))
    with pytest.raises(UsageError, match="encoded by other class_names"):
        run.evaluate(renamed)
    with pytest.raises(UsageError, match="stop looks at a validation split"):
        run.fit(steps=5, stop=jaxnets.EarlyStop(patience=1))
