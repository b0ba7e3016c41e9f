"""Runs: the best checkpoint, metrics that are not finite, edited code, more steps, speeds and the report's memory."""

import dataclasses
import json
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnets
from jaxnets import models, optim, tasks
from jaxnets.checkpoints.retention import Keep, best_step, direction
from jaxnets.checkpoints.step_folders import StepFolders
from jaxnets.config.code_digest import code_digest
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import DataWarning, RunDirectoryError, UsageError
from jaxnets.core.types import Mean
from jaxnets.data import InMemory, from_arrays
from jaxnets.data.dataset import Source
from jaxnets.report.history import History
from jaxnets.report.log import MetricsLog, read_records
from jaxnets.runs.directory import RunDirectory
from jaxnets.runs.open import open_run
from jaxnets.runs.train import train


@pytest.fixture
def no_report(monkeypatch):
    """Drawing costs more than these runs."""
    monkeypatch.setattr("jaxnets.runs.finish.write_report", lambda *_: None)


def arrays(count=40):
    x = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    return x, np.random.default_rng(1).normal(size=count)


def small(**options):
    return {"steps": 12, "progress": "none", "optimizer": optim.Adam(learning_rate=0.03), **options}


def weights_of(run):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(run.state)]


# --- the best


def test_the_name_of_a_metric_determines_its_direction():
    higher = [
        "accuracy",
        "label_accuracy",
        "sequence_accuracy",
        "r2",
        "micro_f1",
        "bleu",
        "exact",
        "elbo",
        "explained",
        "gain",
        "modes",
        "psnr",
        "ssim",
        "recall",
    ]
    lower = [
        "loss",
        "cross_entropy",
        "mse",
        "unit_mse",
        "mae",
        "rmse",
        "perplexity",
        "nll",
        "kl",
        "reconstruction",
        "mistakes",
        "fid",
        "top5_error",
        "generator_loss",
    ]
    assert {direction(name) for name in higher} == {"max"}
    assert {direction(name) for name in lower} == {"min"}
    assert direction("zork") is None
    codes = tasks.VectorQuantization(model=models.VQVAE()).directions
    assert Keep(best="perplexity").resolved(codes).mode == "max"
    assert Keep(best="perplexity").resolved(tasks.NextToken(model=models.RNN()).directions).mode == "min"
    assert Keep(best="perplexity", mode="min").resolved(codes).mode == "min"
    # Every headline of a task is known by name, and the name agrees with the task.
    for name in tasks.__all__:
        task = getattr(tasks, name)
        if isinstance(task, type) and isinstance(getattr(task, "headline", None), str):
            assert direction(task.headline) == ("max" if task.higher_is_better else "min"), name


def test_the_first_of_equals_is_the_best_and_nan_never_is():
    measured = {1: {"loss": np.nan}, 2: {"loss": 3.0}, 3: {}, 4: {"loss": 1.0}, 5: {"loss": 1.0}, 6: {"loss": np.inf}}
    assert best_step(measured, "loss", "min") == 4
    assert best_step(measured, "loss", "max") == 6
    assert Keep(best="loss").choose(measured) == {4, 5, 6}
    with pytest.raises(UsageError, match="nothing says whether more or less of it is better"):
        Keep(best="zork").choose({1: {"zork": 1.0}})


@pytest.mark.slow
def test_the_best_evaluation_stays_on_disk_after_interruptions_and_at_the_end(no_report, tmp_path):
    data, folder = arrays(), tmp_path / "run"
    options = small(steps=60, eval_every=4, keep=Keep(best="loss", last=1), run_dir=folder, optimizer=optim.Adam(0.05))
    task, dataset = tasks.Regression(model=models.MLP(widths=(64,))), from_arrays(*data)
    experiment = Experiment(
        task=task, data=InMemory(dataset.name, dataset.fingerprint), optimizer=options["optimizer"], steps=60,
        batch_size=24, eval_every=4, keep=options["keep"],
    )  # fmt: skip
    for stop in (10, 30, None):
        run = train(experiment, dataset=dataset, run_dir=folder, stop_at=stop, progress="none")
        steps, losses = run.history.series("loss", "validation")
        best = steps[int(np.argmin(losses))]
        assert best in StepFolders(folder / "checkpoints").complete
    assert best < 60
    assert StepFolders(folder / "checkpoints").complete == [best, 60]
    measured = StepFolders(folder / "checkpoints").measured()
    assert measured[best]["loss"] == min(losses)
    opened = open_run(folder, dataset=dataset, step=best)
    assert opened.evaluate("validation")["loss"] == pytest.approx(min(losses), rel=1e-6)


class Own(tasks.Regression):
    """A task with a metric of its own as headline, of which more is better."""

    headline = "zork"
    higher_is_better = True

    def derive(self, values):
        return {**super().derive(values), "zork": -values.get("loss", 0.0), "blub": 1.0}


@pytest.mark.slow
def test_the_task_sets_the_direction_of_its_headline_and_other_metrics_need_keep_mode(no_report, tmp_path):
    options = small(eval_every=3, run_dir=tmp_path / "run")
    run = jaxnets.fit(Own(model=models.MLP(widths=(8,))), arrays(), keep=Keep(best="zork", last=1), **options)
    steps, scores = run.history.series("zork", "validation")
    assert steps[int(np.argmax(scores))] in StepFolders(run.directory / "checkpoints").complete
    with pytest.raises(UsageError, match="keep.best is 'blub', and nothing says whether more or less"):
        jaxnets.fit(Own(model=models.MLP()), arrays(), keep=Keep(best="blub"), **small(run_dir=tmp_path / "other"))


def test_keeping_the_best_without_evaluations_is_noted(no_report, tmp_path):
    options = small(steps=1, eval_every=0, run_dir=tmp_path / "run")
    with pytest.warns(DataWarning, match="measured at the end only"):
        jaxnets.fit(models.MLP(widths=()), arrays(), keep=Keep(best="loss"), **options)


# --- numbers that are not finite


def test_undefined_and_infinite_numbers_are_unchanged_after_saving_and_loading(tmp_path):
    record = {"step": 1, "split": "test", "r2": np.nan, "gain": np.inf, "elbo": -np.inf, "loss": 0.5, "examples": 3.0}
    words = {"step": 1, "split": "event", "what": "Infinity"}
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(record)
    log.append(words)
    for _ in range(2):
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line, parse_constant=lambda word: 1 / 0) for line in lines]  # JSON as others read it
        read = read_records(tmp_path / "metrics.jsonl")
        np.testing.assert_equal(read, [record, words])
        MetricsLog(tmp_path / "metrics.jsonl", resume_at=5)


class Infinite(tasks.Regression):
    def derive(self, values):
        return {**super().derive(values), "gain": np.inf, "lost": -np.inf, "accuracy": np.nan}


@pytest.mark.slow
def test_a_run_with_such_metrics_ends_reports_and_is_shown_again(tmp_path):
    data = arrays()
    options = small(eval_every=3, keep=Keep(best="r2", last=1), run_dir=tmp_path / "run", log_every=2)
    task = Infinite(model=models.MLP(widths=(4,)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for _ in range(2):
            run = jaxnets.fit(task, data, test=(data[0][:5], np.zeros(5)), **options)
    last = run.history.last("test")
    assert last["gain"] == np.inf
    assert last["lost"] == -np.inf
    assert np.isnan(last["accuracy"])
    assert "inf" in repr(run.history)
    assert (run.directory / "report.html").exists()


def test_pictures_take_numbers_that_are_not_finite():
    from jaxnets.core.types import Gallery, Scatter
    from jaxnets.report import images, plots

    rows = [{"step": s, "split": "test", "loss": v} for s, v in enumerate([1.0, np.inf, 0.5, np.nan])]
    bad = np.array([np.nan, 1.0, np.inf])
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        figures = [
            plots.curves(History(rows)),
            plots.curves(History([{"step": 1, "split": "test", "loss": np.nan}])),
            plots.scatter(Scatter("s", bad, bad[::-1], "x", "y")),
            images.gallery(Gallery("g", np.stack([np.full((2, 2, 1), np.nan), np.full((2, 2, 1), np.inf)]), ("", ""))),
        ]
        for figure in figures:
            figure.canvas.draw()
    assert figures[0].axes[0].texts[0].get_text() == "nan"


# --- edited code


FACTOR = 1.0


def helper(x):
    return x * 2.0


def cell(activation=nn.relu, factor=1.0):
    class Net(nn.Module):
        outputs: int | None = None

        @nn.compact
        def __call__(self, x, *, train=False):
            """What a docstring says does not count."""
            return factor * helper(nn.Dense(self.outputs or 1)(activation(nn.Dense(4)(x))))

    return Net


def made(text):
    """A class from the text of a notebook's cell, which no file has."""
    space = {"__name__": "notebook"}
    exec(compile(text, "<cell>", "exec"), space)
    return space["Net"]


CELL = """
import flax.linen as nn
SIZE = 4
def twice(x):
    return 2 * x
class Net(nn.Module):
    outputs: int | None = None
    width: int = 3
    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(self.outputs or 1)(twice(nn.Dense(SIZE)(x)))
"""


def test_a_digest_of_code_depends_on_what_it_computes():
    base = code_digest(cell())
    assert base == code_digest(cell())
    variants = [
        cell(nn.gelu),
        cell(lambda v: v * 2),
        cell(lambda v: v * 3),
        cell(factor=2.0),
        cell(jnp.tanh),
        cell(jax.jit(lambda v: v)),
    ]
    assert len({base, *map(code_digest, variants)}) == 7
    text = code_digest(made(CELL))
    same = [
        CELL,
        CELL.replace("    @nn", "    # a comment\n\n    @nn"),
        CELL.replace("    return 2", "    'Words.'\n    return 2"),
    ]
    assert {code_digest(made(one)) for one in same} == {text}
    other = [
        ("SIZE = 4", "SIZE = 5"),
        ("2 * x", "2 + x"),
        ("width: int = 3", "width: int = 4"),
        ("or 1", "or 2"),
        ("self.outputs", "self.width"),
    ]
    assert len({code_digest(made(CELL.replace(*change))) for change in other} - {text}) == 5


def scaled_loss(factor):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Scaled(tasks.Regression):
        def loss(self, variables, batch, key, train):
            mean, aux = super().loss(variables, batch, key, train)
            return Mean(factor * mean.sum, mean.weight), aux

    return Scaled(model=models.MLP(widths=(4,)))


class Chosen(nn.Module):
    """A module with a function and a type among its fields."""

    act: object = nn.relu
    dtype: object = jnp.float32
    outputs: int | None = None

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(self.outputs or 1, dtype=self.dtype)(self.act(nn.Dense(4)(x)))


def claimed(task, folder, **options):
    """The run directory for a task, as a run claims it."""
    experiment = Experiment(task=task, data=InMemory("d"), **options)
    return RunDirectory.claim(folder, experiment)


def regression(model):
    return tasks.Regression(model=model)


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (lambda: regression(cell()()), lambda: regression(cell(nn.tanh)()), "Net"),
        (lambda: regression(made(CELL)()), lambda: regression(made(CELL.replace("2 * x", "3 * x"))()), "notebook:Net"),
        (lambda: scaled_loss(1.0), lambda: scaled_loss(2.0), "Scaled"),
        (lambda: regression(Chosen(lambda v: 2 * v)), lambda: regression(Chosen(lambda v: 3 * v)), "lambda"),
    ],
    ids=["closure", "cell", "task", "field"],
)
def test_an_edit_under_a_run_is_refused_by_name(first, second, named, tmp_path):
    for _ in range(2):
        claimed(first(), tmp_path / "run")
    with pytest.raises(RunDirectoryError, match=f"{named}.* as it was before an edit.*--run-dir.*--overwrite"):
        claimed(second(), tmp_path / "run")
    # A run of before there were digests, or by another Python, is not refused, but it is said.
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace(': "3.', ': "2.'))
    with pytest.warns(DataWarning, match=f"whether the code of .*{named}.* cannot be determined"):
        claimed(second(), tmp_path / "run")


def test_the_code_of_a_custom_source_is_checked_too(tmp_path):
    def source(factor):
        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Mine(Source):
            def open(self):
                return from_arrays(*arrays(), name=f"mine {factor}")

        return Mine()

    options = {"task": regression(models.MLP())}
    RunDirectory.claim(tmp_path / "run", Experiment(data=source(1), **options))
    with pytest.raises(RunDirectoryError, match="Mine as it was before an edit"):
        RunDirectory.claim(tmp_path / "run", Experiment(data=source(2), **options))


def test_a_configuration_without_a_newer_field_is_the_same_run(tmp_path):
    task, path = regression(models.MLP()), tmp_path / "run" / "config.json"
    claimed(task, tmp_path / "run")
    config = json.loads(path.read_text())
    del config["optimizer"]["weight_decay_on"]
    path.write_text(json.dumps(config))
    claimed(task, tmp_path / "run")


# --- more steps


def plain(history):
    return [{k: v for k, v in record.items() if k != "examples_per_second"} for record in history.records]


def test_a_run_with_a_constant_rate_can_be_trained_for_longer(no_report, tmp_path, one_device):
    def trained(steps, folder):
        experiment = Experiment(
            task=regression(models.MLP(widths=(4,), dropout=0.1)), data=InMemory("d"), optimizer=optim.Adam(), steps=steps,
            batch_size=16, average=optim.EMA(0.9), log_every=5, eval_every=7, steps_per_call=5,
        )  # fmt: skip
        return train(experiment, dataset=dataset, mesh=one_device, run_dir=tmp_path / folder, progress="none")

    dataset = from_arrays(*arrays())
    trained(12, "a")
    longer, whole = trained(24, "a"), trained(24, "b")
    assert all((a == b).all() for a, b in zip(weights_of(longer), weights_of(whole), strict=True))
    assert plain(longer.history) == plain(whole.history)
    assert plain(History(read_records(tmp_path / "a" / "metrics.jsonl"))) == plain(whole.history)


def test_an_extension_that_changes_past_learning_rates_is_refused_with_the_numbers(no_report, tmp_path):
    options = {"progress": "none", "run_dir": tmp_path / "run", "optimizer": optim.AdamW(learning_rate=0.1)}
    jaxnets.fit(models.MLP(widths=()), arrays(), steps=10, **options)
    with pytest.raises(
        RunDirectoryError, match=r"steps: 10 there, 20 here(.|\n)*at step 0 [0-9.]+ there, [0-9.]+ here"
    ):
        jaxnets.fit(models.MLP(widths=()), arrays(), steps=20, **options)
    with pytest.raises(RunDirectoryError, match="has done 10 steps of 10, more than steps=5"):
        jaxnets.fit(models.MLP(widths=()), arrays(), steps=5, **options)


# --- speed and memory


def test_the_logged_speed_measures_training_steps_only():
    from jaxnets.training.hooks import LogHook
    from jaxnets.training.plan import Every, Moment

    lost, records = [0.0], []
    task = tasks.Regression(model=models.MLP())
    hook = LogHook(
        Every(1),
        task,
        examples=lambda step: 1000 * step,
        record=records.append,
        show=lambda *a: None,
        elsewhere=lambda: lost[0],
    )
    ones = {"loss": (np.ones(1), np.ones(1))}
    hook.observe(0, ones)
    hook.run(Moment(1, None))
    import time

    time.sleep(0.05)
    lost[0] += 0.0499  # an evaluation
    hook.observe(1, ones)
    hook.run(Moment(2, None))
    assert records[1]["examples_per_second"] > 1000 / 0.025


@pytest.mark.parametrize(
    "task", [tasks.NextToken, tasks.Forecasting, tasks.Diffusion, tasks.Adversarial, tasks.Variational]
)
def test_a_report_computes_only_the_outputs_that_it_shows(task):
    model = models.MLP()
    made = task(model=model, critic=model) if task is tasks.Adversarial else task(model=model)
    rows = made.exhibit_rows(100_000)
    assert len(rows) <= 16
    assert set(made.exhibit_rows(3)) <= {0, 1, 2}


def test_the_report_of_some_windows_is_that_of_all(tmp_path):
    from jaxnets.core.types import Card

    task = tasks.Forecasting(model=models.MLP(), means=(0.0,), stds=(1.0,))
    rng = np.random.default_rng(0)
    outputs, seen, true = rng.normal(size=(50, 3, 1)), rng.normal(size=(50, 4, 1)), rng.normal(size=(50, 3, 1))
    card = Card(name="c", input_shape=(4, 1), target_kind="series", examples={"train": 1, "test": 50})
    whole = task.exhibits(outputs, {"inputs": seen, "targets": true}, card)[0]
    rows = task.exhibit_rows(50)
    some = task.exhibits(outputs[rows], {"inputs": seen[rows], "targets": true[rows], "index": rows}, card)[0]
    assert some.captions == whole.captions
    np.testing.assert_array_equal(some.curves, whole.curves)


def test_outputs_are_gathered_in_order_for_any_number_of_inputs():
    run = jaxnets.fit(models.MLP(widths=()), arrays(), **small(steps=1, eval_batch_size=8))
    x = np.random.default_rng(2).normal(size=(203, 3)).astype(np.float32)
    whole = run.outputs(x)
    assert whole.shape == (203, 1)
    np.testing.assert_allclose(whole[150:153], run.outputs(x[150:153]), rtol=1e-5, atol=1e-6)
