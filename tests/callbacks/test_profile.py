"""Some steps of a run, profiled."""

import json

import pytest
from conftest import assert_same_bits, replace, run_here

from jaxnets.callbacks import Profile
from jaxnets.callbacks.profile import operations
from jaxnets.core.errors import UsageError
from jaxnets.runs.train import train


@pytest.mark.slow
def test_ten_steps_are_traced_and_nothing_else_changes(experiment, blobs, tmp_path):
    experiment = replace(experiment, eval_every=0, save_every=0)  # nothing but steps in the trace
    plain = train(experiment, dataset=blobs, progress="none")
    run = train(experiment, dataset=blobs, run_dir=tmp_path / "run", hooks=[Profile("5:15")], progress="none")
    assert_same_bits(run.state, plain.state)
    rows = json.loads((tmp_path / "run" / "profile" / "operations.json").read_text())
    assert rows == operations(tmp_path / "run" / "profile")
    products = [row for row in rows if "dot" in row["operation"] or "fusion" in row["operation"]]
    # Eight devices take ten steps. An operation that a processor's kernels cut in pieces has other counts.
    assert any(row["calls"] == 80 for row in products), products
    assert sum(row["share"] for row in rows) <= 1.001
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert "The costliest operations" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_run_that_stops_between_ends_its_trace(experiment, blobs, tmp_path):
    train(experiment, dataset=blobs, run_dir=tmp_path / "a", stop_at=9, hooks=[Profile("3:15")], progress="none")
    # The profiler would refuse a second trace if the first were still on.
    train(replace(experiment, seed=1), dataset=blobs, run_dir=tmp_path / "b", hooks=[Profile("3:6")], progress="none")
    assert (tmp_path / "b" / "profile" / "operations.json").exists()


@pytest.mark.parametrize("steps", ["20", "0:5", "9:9", "a:b", "-1:4", ""])
def test_steps_that_are_none(steps):
    with pytest.raises(UsageError, match="such as 20:30"):
        Profile(steps)


def test_it_needs_a_place(experiment, blobs):
    from jaxnets.callbacks.callback import CallbackError

    with pytest.raises(CallbackError, match="needs a place"):
        train(experiment, dataset=blobs, hooks=[Profile("3:6")], progress="none")


@pytest.mark.slow
def test_by_the_command(tmp_path):
    done = run_here("train", "digits_cnn", "--steps", 12, "--profile", "5:9", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "profile" / "operations.json").exists()
    wrong = run_here("train", "digits_cnn", "--steps", 12, "--profile", "9:5", "--run-dir", "other", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "such as 20:30" in wrong.stderr
