"""A run from configuration to report, its directory, and going on where it stopped."""

import dataclasses
import json
import re
import resource
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, replace

import jaxnets
from jaxnets.checkpoints.retention import Keep
from jaxnets.checkpoints.warm_start import WarmStart
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import DataError, NonFiniteError, RunDirectoryError, UsageError
from jaxnets.data import Augment, InMemory, from_arrays
from jaxnets.data.feed import ResidentFeed
from jaxnets.models import CNN, GCN, MLP, Perceptron, Seq2SeqTransformer
from jaxnets.optim import EMA, SGD, Adam, WarmupCosine
from jaxnets.parallel import MeshShape
from jaxnets.report.history import History
from jaxnets.runs.open import open_run
from jaxnets.runs.train import train
from jaxnets.tasks import Classification, PerceptronRule

TIMED = ("examples_per_second",)


def records(run):
    return [{k: v for k, v in record.items() if k not in TIMED} for record in run.history.records]


def logged(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(10,), (3, 13), (7, 8, 19)])
def test_an_interrupted_and_resumed_run_equals_the_uninterrupted_run(tmp_path, experiment, blobs, one_device, stops):
    experiment = replace(experiment, average=EMA(0.9))
    options = {"dataset": blobs, "mesh": one_device, "progress": "none"}
    whole = train(experiment, run_dir=tmp_path / "whole", **options)
    for stop in stops:
        part = train(experiment, run_dir=tmp_path / "cut", stop_at=stop, **options)
        assert int(part.state.step) == stop
        assert not (tmp_path / "cut" / "report.html").exists()
    cut = train(experiment, run_dir=tmp_path / "cut", **options)
    assert_same_bits(whole.state, cut.state)
    assert records(whole) == records(cut)
    assert [r["step"] for r in records(whole)] == [7, 10, 14, 20, 20]


@pytest.mark.parametrize(
    "stops", [(2, 6, 11), pytest.param((1,), marks=pytest.mark.slow), pytest.param((19,), marks=pytest.mark.slow)]
)
def test_interruptions_change_nothing_with_all_features_on(tmp_path, pictures, one_device, stops):
    # Every part that has a memory or draws something: augmentation, dropout, an average, micro-batches, the best so far.
    experiment = Experiment(
        task=Classification(model=CNN(features=(8,), dense=(16,), dropout=0.3)),
        data=InMemory(),
        optimizer=Adam(learning_rate=1e-2, schedule=WarmupCosine(), clip_norm=1.0),
        average=EMA(0.9),
        steps=20,
        batch_size=12,
        micro_batches=3,
        eval_every=5,
        log_every=4,
        save_every=5,
        keep=Keep(last=1, best="accuracy"),
    )
    data = from_arrays(
        pictures.train["inputs"],
        pictures.train["targets"],
        test=(pictures.test["inputs"], pictures.test["targets"]),
        augment=Augment(shift=1, flip=True),
    )
    options = {"dataset": data, "mesh": one_device, "progress": "none"}
    whole = train(experiment, run_dir=tmp_path / "whole", **options)
    for stop in stops:
        train(experiment, run_dir=tmp_path / "cut", stop_at=stop, **options)
    cut = train(experiment, run_dir=tmp_path / "cut", **options)
    assert_same_bits(whole.state, cut.state)
    assert records(whole) == records(cut)
    measured = {r["step"]: r["accuracy"] for r in records(whole) if r["split"] == "test"}
    best = max(measured, key=lambda step: (measured[step], step))
    best_whole, best_cut = (
        open_run(tmp_path / run, dataset=data, mesh=one_device, step=best) for run in ("whole", "cut")
    )
    assert_same_bits(best_whole.state, best_cut.state)


@pytest.mark.slow
def test_steps_after_the_last_checkpoint_are_repeated_and_logged_once(tmp_path, experiment, blobs, one_device):
    options = {"dataset": blobs, "mesh": one_device, "progress": "none"}
    whole = train(experiment, run_dir=tmp_path / "whole", **options)

    class Killed(Exception):
        pass

    original = json.dumps

    def dies(record, **options):
        if isinstance(record, dict) and record.get("step") == 14:
            raise Killed
        return original(record, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxnets.report.log.json.dumps", dies)
        with pytest.raises(Killed):
            train(experiment, run_dir=tmp_path / "cut", **options)
    # A line beyond the checkpoint, as a crash after it would leave, and one cut in the middle.
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "split": "train", "loss": 9.0}\n{"step": 14, "spl')
    resumed = train(experiment, run_dir=tmp_path / "cut", **options)
    assert_same_bits(whole.state, resumed.state)
    assert records(whole) == records(resumed)
    assert [{k: v for k, v in r.items() if k not in TIMED} for r in logged(tmp_path / "cut")] == records(whole)


def test_a_run_directory_has_all_files(tmp_path, pictures, experiment):
    run = train(
        replace(experiment, task=Classification(model=CNN(features=(8,), dense=(16,)))),
        dataset=pictures,
        run_dir=tmp_path / "run",
        progress="none",
        title="my <title>",
    )
    directory = tmp_path / "run"
    assert {p.name for p in directory.iterdir()} == {
        "config.json", "environment.json", "preparation.json", "metrics.jsonl", "checkpoints", "plots", "report.html",
    }  # fmt: skip
    environment = json.loads((directory / "environment.json").read_text())
    assert environment["platform"] == "cpu"
    assert environment["devices"] == 8
    assert environment["data"]["fingerprint"] == pictures.fingerprint
    page = (directory / "report.html").read_text()
    assert "my &lt;title&gt;" in page
    assert not re.search(r"(src|href)\s*=\s*['\"]?(https?:)?//", page), "the page needs a network"
    for part in (
        "Curves",
        "Confusion matrix",
        "Class by class",
        "Settings that were chosen",
        "Environment",
        "task.model.features",
    ):
        assert part in page
    assert (directory / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")
    reopened = open_run(directory, dataset=pictures)
    assert_same_bits(run.state, reopened.state)
    assert reopened.evaluate() == run.evaluate()
    assert records(reopened) == records(run)


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(tmp_path, experiment, blobs, one_device, capsys):
    options = {"dataset": blobs, "mesh": one_device, "run_dir": tmp_path / "run"}
    first = train(experiment, progress="none", **options)
    (tmp_path / "run" / "report.html").unlink()
    again = train(experiment, progress="lines", **options)
    assert_same_bits(first.state, again.state)
    assert (tmp_path / "run" / "report.html").exists()
    assert "complete already" in capsys.readouterr().out
    assert "seconds to train" not in (tmp_path / "run" / "report.html").read_text()
    fresh = train(experiment, progress="none", overwrite=True, **options)
    assert_same_bits(first.state, fresh.state)
    # What the report of the training says stays, however often the command is run again.
    report = (tmp_path / "run" / "report.html").read_bytes()
    assert b"seconds to train" in report
    train(experiment, progress="none", **options)
    assert (tmp_path / "run" / "report.html").read_bytes() == report


def test_a_directory_with_another_run_or_other_files_is_refused(tmp_path, experiment, blobs, one_device):
    options = {"dataset": blobs, "mesh": one_device, "run_dir": tmp_path / "run", "progress": "none"}
    train(experiment, **options)
    before = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    with pytest.raises(RunDirectoryError, match=r"holds another run; it differs in\n  seed: 0 there, 5 here"):
        train(replace(experiment, seed=5), **options)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(RunDirectoryError, match="files in it but no run"):
        train(experiment, **{**options, "run_dir": tmp_path / "other"})
    (tmp_path / "run" / "thesis.tex").write_text("x")
    train(replace(experiment, seed=5), overwrite=True, **options)
    assert (tmp_path / "run" / "thesis.tex").exists()


def test_other_data_under_a_run_are_refused(tmp_path, experiment, blobs, pictures, one_device):
    options = {"run_dir": tmp_path / "run", "mesh": one_device, "progress": "none"}
    train(experiment, dataset=blobs, stop_at=10, **options)
    changed = dataclasses.replace(blobs, train={**blobs.train, "inputs": blobs.train["inputs"] * 2})
    with pytest.raises(RunDirectoryError, match="was trained on other data: the fingerprint of 'blobs'"):
        train(experiment, dataset=changed, **options)
    with pytest.raises(RunDirectoryError, match="was trained on other data"):
        open_run(tmp_path / "run", dataset=changed, mesh=one_device)


@pytest.mark.slow
def test_a_run_resumes_with_other_meshes_and_intervals(tmp_path, experiment, blobs, one_device):
    options = {"dataset": blobs, "run_dir": tmp_path / "run", "progress": "none"}
    train(experiment, stop_at=10, mesh=one_device, **options)
    changed = replace(experiment, mesh=MeshShape(data=4, fsdp=2), log_every=3, eval_batch_size=16)
    run = train(changed, **options)
    assert int(run.state.step) == 20
    alone = train(experiment, dataset=blobs, mesh=one_device, progress="none")
    assert_close(run.state.params, alone.state.params, atol=1e-5)
    assert open_run(tmp_path / "run", dataset=blobs).evaluate()["examples"] == 61


@pytest.mark.slow
def test_a_custom_class_is_named_and_never_mistaken_for_another(tmp_path, experiment, blobs, one_device):
    class MLP(nn.Module):  # the name of a built-in
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(4)(nn.tanh(nn.Dense(8)(x)))

    mine = replace(experiment, task=Classification(model=MLP()))
    run = train(mine, dataset=blobs, mesh=one_device, run_dir=tmp_path / "run", progress="none")
    with pytest.raises(UsageError, match="MLP' is a class of your own"):
        open_run(tmp_path / "run", dataset=blobs, mesh=one_device)
    again = train(mine, dataset=blobs, mesh=one_device, run_dir=tmp_path / "run", progress="none")
    assert_same_bits(run.state, again.state)


def test_outputs_that_do_not_fit_the_data_are_refused(blobs):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(2)(x)

    with pytest.raises(DataError, match=r"gives outputs of shape \(32, 2\), but 'blobs' has 4 classes"):
        jaxnets.fit(Two(), blobs, progress="none")
    numbers = np.random.default_rng(0).normal(size=(64, 3))
    with pytest.raises(DataError, match=r"regression needs \[batch, 1\]"):
        jaxnets.fit(Two(), (numbers, numbers[:, 0]), progress="none")


@pytest.mark.slow
def test_skipped_steps_do_not_spoil_the_log(tmp_path, experiment, blobs, one_device):
    wild = replace(experiment, optimizer=SGD(learning_rate=1e30), on_nonfinite="skip")
    run = train(wild, dataset=blobs, mesh=one_device, run_dir=tmp_path / "run", progress="none")
    first = next(record for record in run.history if record["split"] == "train")
    assert first["skipped"] > 0
    # Each is named, with the parameter whose gradient went first.
    events = [record for record in run.history if record["split"] == "event"]
    assert len(events) == int(run.state.guard["skipped"])
    assert "first at the gradient of hidden_0/" in events[-1]["what"]
    assert np.isfinite(first["loss"])
    assert all("NaN" not in line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())


def test_an_average_follows_a_custom_step_of_the_task(blobs, one_device):
    data = jaxnets.data.Tabular(path="iris", only=("setosa", "versicolor")).open()
    run = Experiment(
        task=PerceptronRule(model=Perceptron()), data=InMemory(), steps=60, batch_size=16, average=EMA(0.5)
    )
    trained = train(run, dataset=data, mesh=one_device, progress="none")
    assert trained.evaluate()["accuracy"] == 1.0
    assert not np.array_equal(trained.state.average["params"]["neuron"]["kernel"], np.zeros((4, 1)))


def test_a_directory_that_cannot_be_written_is_an_error_before_any_work(tmp_path, experiment, blobs, one_device):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirectoryError, match=r"cannot write the run directory .*--run-dir"):
        train(experiment, dataset=blobs, run_dir=tmp_path / "file" / "run", progress="none")
    with pytest.raises(RunDirectoryError, match="holds no run"):
        open_run(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
@pytest.mark.slow
def test_a_full_disk_is_an_error_and_earlier_checkpoints_stay(tmp_path, experiment, blobs, one_device):
    # A limit on the size of files stands for the full disk: every write beyond it fails as one on a full disk does.
    wide = replace(experiment, task=Classification(model=MLP(widths=(256, 256))), steps=40)
    options = {"dataset": blobs, "mesh": one_device, "run_dir": tmp_path / "run", "progress": "none"}
    train(wide, stop_at=10, **options)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(RunDirectoryError, match=r"cannot .*\[10\], untouched.*resume"):
            train(wide, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resumed = train(wide, **options)
    assert_same_bits(resumed.state, train(wide, dataset=blobs, mesh=one_device, progress="none").state)


def test_a_non_finite_run_stops_with_its_last_checkpoint_good(tmp_path, experiment, blobs, one_device):
    options = {"dataset": blobs, "mesh": one_device, "run_dir": tmp_path / "run", "progress": "none"}
    train(experiment, stop_at=10, **options)
    good = open_run(tmp_path / "run", dataset=blobs, mesh=one_device).state
    original = ResidentFeed.batch

    def poisoned(self, payload, index, step):
        batch = original(self, payload, index, step)
        return {**batch, "inputs": jax.numpy.where(step == 12, jax.numpy.nan, batch["inputs"])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResidentFeed, "batch", poisoned)
        with pytest.raises(NonFiniteError, match="step 13 is not finite .*batch is number 12"):
            train(experiment, **options)
    assert_same_bits(good, open_run(tmp_path / "run", dataset=blobs, mesh=one_device).state)


NOTEBOOK = """
data = jaxnets.load("digits")
run = jaxnets.fit(jaxnets.models.MLP(), data, epochs=3, progress="none")
figure = run.history.plot()
labels = run.predict(data.test["inputs"])
"""


@pytest.mark.smoke
def test_five_lines_in_a_notebook_and_a_cell_can_be_run_again():
    cell, other = {"jaxnets": jaxnets}, {"jaxnets": jaxnets}
    exec(NOTEBOOK, cell)
    exec(NOTEBOOK, cell)
    exec(NOTEBOOK, other)
    assert_same_bits(cell["run"].state, other["run"].state)
    data, run = cell["data"], cell["run"]
    accuracy = (cell["labels"] == data.test["targets"]).mean()
    assert accuracy > 0.9
    assert accuracy == pytest.approx(run.history.last("test")["accuracy"])
    assert len(cell["figure"].axes) >= 2
    assert "digits" in repr(run)


def test_fit_takes_arrays_and_does_not_change_them():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 5)), rng.normal(size=300)
    kept = x.copy(), y.copy()
    run = jaxnets.fit(MLP(widths=(32,)), (x, y), steps=30, batch_size=32, progress="none")
    assert run.predict(x[:7]).shape == (7,)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(y, kept[1])
    device = jax.numpy.asarray(x, jax.numpy.float32)
    jaxnets.fit(MLP(widths=(32,)), (device, y), steps=3, batch_size=32, progress="none")
    assert not device.is_deleted()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((MLP(),), {"epochs": 1, "steps": 2}, UsageError, "either epochs or steps"),
        ((MLP(),), {"steps": 0}, UsageError, "steps is at least 1, got 0"),
        ((MLP(),), {"batch_size": 2000}, UsageError, "batch_size 2000 is larger than the training set"),
        ((MLP(),), {"epochs": 0}, UsageError, "epochs is a positive number, got 0"),
        ((MLP(),), {"steps": "5"}, UsageError, "steps is a number such as 500, or a duration .* got '5'"),
        ((MLP(),), {"stepz": 5}, UsageError, "no argument 'stepz'. Did you mean 'steps'"),
        ((MLP,), {}, UsageError, "add parentheses"),
        ((MLP(),), {"optimizer": 3}, UsageError, "an optimizer is one of .*; got 3"),
        ((MLP(),), {"batch_size": 20, "micro_batches": 3}, UsageError, "not divisible into 3 micro-batches"),
        ((MLP(outputs=7),), {}, DataError, "outputs=7, but the labels of 'digits' run from 0 to 9"),
        (
            (CNN(features=(4, 4, 4, 4)),),
            {},
            DataError,
            r"CNN cannot take the inputs of 'digits'.*\(8, 8, 1\).*at least 16x16",
        ),
        ((PerceptronRule(model=Perceptron()),), {}, DataError, "two classes"),
    ],
)
def test_bad_arguments_are_named_before_any_work(arguments, options, error, message):
    with pytest.raises(error, match=message):
        jaxnets.fit(*arguments, jaxnets.load("digits"), progress="none", **options)


def test_an_error_of_predict_names_the_expected_shape(experiment, blobs, one_device):
    run = train(replace(experiment, steps=1), dataset=blobs, progress="none")
    with pytest.raises(DataError, match=r"shape \[N, 12\].*got \(12,\)"):
        run.predict(blobs.test["inputs"][0])
    with pytest.raises(DataError, match=r"at least one example, got inputs of shape \(0, 12\)"):
        run.predict(np.zeros((0, 12)))


@pytest.mark.slow
def test_unused_panels_have_no_frames(experiment, blobs, one_device):
    figure = train(replace(experiment, steps=14), dataset=blobs, mesh=one_device, progress="none").history.plot()
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == 3
    record = {"step": 1, "split": "train", "loss": 1.0, "accuracy": 0.5, "mae": 1.0, "gradient_norm": 1.0}
    assert sum(axis.get_visible() for axis in History((record,)).plot().axes) == 4


def test_a_notebook_shows_the_plot_of_a_history_as_a_picture():
    """Without pyplot, which alone makes notebooks show plain figures."""
    figure = History(({"step": 1, "split": "train", "loss": 1.0},)).plot()
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_metric_that_will_not_be_measured_is_named_before_anything_is_trained(
    experiment, blobs, one_device, tmp_path
):
    wrong = replace(experiment, keep=Keep(best="acuracy"))
    with pytest.raises(UsageError, match=r"keep.best is 'acuracy', which is not measured. Did you mean 'accuracy'"):
        train(wrong, dataset=blobs, mesh=one_device, run_dir=tmp_path / "run", progress="none")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            Classification(model=Seq2SeqTransformer()),
            "Seq2SeqTransformer cannot take the inputs of 'blobs'.*AttributeError",
        ),
        (Classification(model=GCN()), "GCN cannot take the inputs.*takes a Graph, not an array"),
        (Classification(model=CNN()), r"CNN needs images .*got \(.*12\); reshape them, or use MLP"),
    ],
)
def test_a_model_for_other_inputs_is_a_data_error(experiment, blobs, one_device, task, message):
    with pytest.raises(DataError, match=message):
        train(replace(experiment, task=task), dataset=blobs, mesh=one_device, progress="none")


def test_a_missing_initial_run_is_an_error_before_any_work(experiment, blobs, one_device, tmp_path):
    wrong = replace(experiment, warm_start=WarmStart(run=str(tmp_path / "nosuch")))
    with pytest.raises(UsageError, match=r"warm_start.run is '.*nosuch', and there is no such folder"):
        train(wrong, dataset=blobs, mesh=one_device, run_dir=tmp_path / "run", progress="none")
    assert not (tmp_path / "run").exists()
