"""Validation: what is set aside, what looks at it, early stopping, the best weights, and one measurement of the test."""

import dataclasses
import math
import os
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnets
from jaxnets.core.errors import DataError, RunDirectoryError, UsageError
from jaxnets.data import Cora, Series, Text, Validation
from jaxnets.data.dataset import Dataset
from jaxnets.data.rows import split_rows
from jaxnets.data.validation import with_validation

MODEL = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(2)])
STOP = jaxnets.EarlyStop("loss", patience=2)


def arrays(count: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Labels with noise, so that the validation loss soon rises."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 8)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] + rng.normal(size=count) * 0.3 > 0).astype(int)


def fit(**options):
    options = {"stop": STOP, "epochs": 60, "progress": "none", "optimizer": optax.adam(1e-2)} | options
    return jaxnets.fit(MODEL, arrays(), **options)


@pytest.fixture(scope="module")
def stopped():
    return fit()


def flat(variables) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(variables)])


# What is decided by the evaluations


@given(st.lists(st.one_of(st.integers(0, 6), st.just(math.nan)), max_size=12), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_a_run_ends_when_the_last_evaluations_are_all_no_better_than_the_best_before_them(values, patience):
    at = jaxnets.EarlyStop(patience=patience).ends_at(list(enumerate(values)), "min")

    def over(end: int) -> bool:
        recent, before = values[end - patience + 1 : end + 1], values[: end - patience + 1]
        known = [v for v in before if not math.isnan(v)]
        best = min(known, default=math.inf)
        return len(recent) == patience and all(math.isnan(v) or v >= best for v in recent)

    # Without a number before them, only numbers that are missing are no improvement.
    expected = next((end for end in range(len(values)) if over(end)), None)
    assert at == expected


def test_a_change_within_min_delta_is_no_improvement():
    values = [(1, 1.0), (2, 0.95), (3, 0.91), (4, 0.5)]
    assert jaxnets.EarlyStop(patience=2, min_delta=0.1).ends_at(values, "min") == 3
    assert jaxnets.EarlyStop(patience=2).ends_at(values, "min") is None


def test_the_run_ends_early_and_gives_the_weights_of_the_best_evaluation(stopped):
    steps, losses = stopped.history.series("loss", "validation")
    best = int(np.argmin(losses))
    assert int(stopped.state.step) == steps[-1] < stopped.experiment.steps
    assert len(losses) == best + 1 + STOP.patience
    assert (stopped.best.step, stopped.best.value) == (steps[best], losses[best])
    assert not np.array_equal(flat(stopped.state.params), flat(stopped.best.variables["params"]))
    # A run that never looks at evaluations has the same weights at that step.
    plain = fit(stop=None, validation=0.1, epochs=None, steps=steps[best])
    assert np.array_equal(flat(plain.state.params), flat(stopped.best.variables["params"]))
    assert stopped.evaluate("validation")["loss"] == pytest.approx(losses[best], abs=1e-6)


def test_the_test_split_is_measured_once_with_the_best_weights(stopped):
    records = [record for record in stopped.history.records if record["split"] == "test"]
    assert len(records) == 1
    assert records[0]["weights_of_step"] == stopped.best.step
    assert stopped.history.series("loss", "test") == ([stopped.best.step], [records[0]["loss"]])  # where it is drawn
    data = stopped.parts.dataset
    logits = MODEL.apply(stopped.best.variables, data.prepare(data.test["inputs"]))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, data.test["targets"])
    assert records[0]["loss"] == pytest.approx(float(losses.mean()), abs=1e-5)


def test_the_test_split_is_not_used_for_choices(stopped):
    data = stopped.parts.dataset
    other = {**data.test, "targets": 1 - data.test["targets"]}
    run = jaxnets.fit(
        MODEL,
        dataclasses.replace(data, test=other),
        stop=STOP,
        epochs=60,
        progress="none",
        optimizer=optax.adam(1e-2),
    )
    assert run.best.step == stopped.best.step
    assert np.array_equal(flat(run.best.variables), flat(stopped.best.variables))


@pytest.mark.slow
def test_interrupted_and_resumed_it_ends_at_the_same_step_with_the_same_weights(stopped, tmp_path):
    from jaxnets.runs.train import train

    data = stopped.parts.dataset
    for stop_at in (4, 31, None):  # twice cut, then to its end
        run = train(stopped.experiment, dataset=data, run_dir=tmp_path / "run", stop_at=stop_at, progress="none")
    assert (int(run.state.step), run.best.step) == (int(stopped.state.step), stopped.best.step)
    assert np.array_equal(flat(run.variables), flat(stopped.variables))
    keys = ("step", "split", "loss", "accuracy")
    rows = [[record.get(key) for key in keys] for record in run.history.records if record["split"] != "train"]
    assert rows == [[r.get(key) for key in keys] for r in stopped.history.records if r["split"] != "train"]
    # It is complete: the same command trains nothing, and measures nothing again.
    again = train(stopped.experiment, dataset=data, run_dir=tmp_path / "run", progress="none")
    assert again.history.records == run.history.records
    assert again.best.step == run.best.step
    opened = jaxnets.open_run(tmp_path / "run", dataset=data, model=MODEL, optimizer=optax.adam(1e-2))
    assert int(opened.state.step) == opened.best.step == stopped.best.step
    assert np.array_equal(flat(opened.variables), flat(stopped.variables))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "173 training, 19 validation and 48 test examples" in page
    assert f"{stopped.best.step} (validation loss" in page


def test_keep_best_without_early_stopping_trains_to_the_end(tmp_path):
    from jaxnets.checkpoints.retention import Keep

    run = fit(stop=None, keep=Keep(best="accuracy"), epochs=6, run_dir=tmp_path / "run")
    steps, values = run.history.series("accuracy", "validation")
    assert int(run.state.step) == run.experiment.steps == steps[-1]
    assert (run.best.step, run.best.value) == (steps[int(np.argmax(values))], max(values))
    assert len(run.history.series("accuracy", "test")[0]) == 1


def test_a_run_that_started_without_validation_resumes_without_it(tmp_path):
    """An older run with keep.best looked at the test split; its training examples must stay the same."""
    from jaxnets.checkpoints.retention import Keep
    from jaxnets.runs.train import train

    dataset = jaxnets.from_arrays(*arrays())
    experiment = fit(stop=None, epochs=4).experiment
    train(experiment, dataset=dataset, run_dir=tmp_path / "run", stop_at=8, progress="none")
    chosen = dataclasses.replace(experiment, keep=Keep(best="accuracy"))
    run = train(chosen, dataset=dataset, run_dir=tmp_path / "run", progress="none")
    assert run.parts.validator is None
    assert run.best.value == max(run.history.series("accuracy", "test")[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": jaxnets.EarlyStop("acuracy")}, "accuracy"),
        ({"stop": jaxnets.EarlyStop("loss"), "validation": 0}, "give a share"),
        ({"stop": jaxnets.EarlyStop("loss"), "eval_every": 0, "epochs": None, "steps": 5}, "set eval_every"),
        ({"validation": 1.5}, "share in \\(0, 1\\)"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused_for_choices(options, message):
    with pytest.raises((UsageError, DataError), match=message):
        fit(**options)


def test_a_negative_patience_is_refused():
    with pytest.raises(UsageError, match="patience is a number of evaluations"):
        jaxnets.EarlyStop(patience=-1)


# What is set aside


@given(st.lists(st.integers(0, 3), min_size=20, max_size=60), st.sampled_from([0.1, 0.25, 0.5]))
@settings(max_examples=100, deadline=None)
def test_every_class_has_its_share_and_no_row_is_in_both(labels, share):
    kept, held = split_rows(np.array(labels), share, "class", seed=1)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    for label in set(labels):
        count, of = sum(labels[row] == label for row in held), labels.count(label)
        assert abs(count - share * of) < 1
        assert count < of


def test_a_group_is_in_one_split_only():
    x, y = arrays(200)
    groups = np.repeat([f"patient {i}" for i in range(40)], 5)
    marked = np.column_stack([x, np.repeat(np.arange(40), 5)])
    data = jaxnets.from_arrays(marked, y, groups=groups, validation=0.25)
    seen = [set(split["inputs"][:, -1]) for split in data.splits.values()]
    assert [len(s) for s in seen] == [24, 8, 8]
    assert len(set.union(*seen)) == 40


def test_validation_arrays_are_used_whole_and_do_not_change_the_scales():
    x, y = arrays(60)
    data = jaxnets.from_arrays(x[:40], y[:40], test=(x[40:50], y[40:50]), validation=(x[50:] + 100, y[50:]))
    assert np.array_equal(data.validation["inputs"], x[50:] + 100)
    assert np.allclose(data.prepare.mean, x[:40].mean(axis=0), atol=1e-6)


def test_by_time_the_last_windows_are_held_out_and_share_no_target_with_training():
    values = np.arange(200.0)
    windows = np.lib.stride_tricks.sliding_window_view(values, 12)[:, :, None]
    splits = {"inputs": windows[:150, :8], "targets": windows[:150, 8:]}
    data = Dataset("ramp", train=splits, test=splits, target_kind="series")
    made = with_validation(data, Validation(0.2), seed=0, needed=True)
    assert len(made.validation["targets"]) == 30
    assert made.validation["targets"].min() > made.train["targets"].max()
    assert len(made.train["targets"]) == 120 - 3  # three windows before have some of its 4 targets


def test_sources_with_a_validation_part_give_it():
    series = Series("airline_passengers").open()
    assert set(series.splits) == {"training", "test", "validation"}
    assert "validation" not in Series("airline_passengers", measure="validation").open().splits


def test_text_is_split_by_time(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcdefghij" * 400)
    data = Text(str(path), length=20).open()
    made = with_validation(data, Validation(0.1), seed=0, needed=True)
    rows, held = len(data.train["targets"]), len(made.validation["targets"])
    assert held == round(0.1 * rows)
    assert len(made.train["targets"]) == rows - held - 1  # windows overlap by a half: one is left out in between


@pytest.mark.skipif(
    not (Path(os.environ.get("JAXNETS_DATA", "")) / "graphs" / "cora.npz").is_file(), reason="JAXNETS_DATA is not set"
)
def test_the_labels_of_validation_nodes_are_in_that_split_alone():
    data = Cora().open()
    held = data.validation["counted"][0]
    assert held.sum() == 500
    assert not (data.train["targets"][0][held]).any()
    assert data.validation["targets"][0][held].any()
    with pytest.raises(DataError, match="leaves an empty split"):
        with_validation(dataclasses.replace(data, validation=None), Validation(), seed=0, needed=True)


def test_a_share_of_data_that_have_a_validation_split_is_refused():
    with pytest.raises(UsageError, match="has a validation split"):
        with_validation(Series("airline_passengers").open(), Validation(0.3), seed=0, needed=False)


@pytest.mark.slow
def test_another_validation_split_is_another_run(tmp_path):
    x, y = arrays(80)
    options = {"epochs": 1, "progress": "none", "run_dir": tmp_path / "run", "optimizer": "adamw"}
    jaxnets.fit(MODEL, (x[:60], y[:60]), test=(x[60:70], y[60:70]), validation=(x[70:], y[70:]), **options)
    with pytest.raises(RunDirectoryError):
        jaxnets.fit(MODEL, (x[:60], y[:60]), test=(x[60:70], y[60:70]), validation=(x[70:] + 1, y[70:]), **options)
