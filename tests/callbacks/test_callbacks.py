"""Callbacks: each step once, what one raises, what one stops, through a kill and a resume."""

import csv
import os
import signal
import subprocess
import sys
import textwrap

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same_bits

import jaxnets
from jaxnets.callbacks import Call, DeviceMemory, Samples, TimeLimit, WritePredictions, callback
from jaxnets.callbacks.callback import CallbackError
from jaxnets.core.errors import UsageError
from jaxnets.runs.train import train


class Counter(jaxnets.Callback):
    """Keeps every call, and remembers the steps in checkpoints."""

    every = 7

    def __init__(self):
        self.seen, self.events, self.losses = [], [], []

    def stepped(self, run, step, metrics):
        self.seen.append(step)
        self.losses.append(metrics["loss"])

    def at(self, run):
        self.events.append(("at", run.step))

    def started(self, run):
        self.events.append(("started", run.step))

    def evaluated(self, run, split, metrics):
        self.events.append(("evaluated", run.step, split, metrics["loss"]))

    def saved(self, run):
        self.events.append(("saved", run.step))

    def stopped(self, run, reason):
        self.events.append(("stopped", run.step, reason))

    def failed(self, run, error):
        self.events.append(("failed", type(error).__name__))

    def ended(self, run):
        self.events.append(("ended", run.step))

    def state(self):
        return self.seen

    def restore(self, state):
        self.seen = list(state)


class Emptying(jaxnets.Callback):
    """Removes all entries of the dict that it is given."""

    def stepped(self, run, step, metrics):
        metrics.clear()


@pytest.fixture(scope="module")
def plain(blobs):
    """The run without callbacks."""
    return train(conftest.experiment.__wrapped__(), dataset=blobs, progress="none")


def test_every_step_is_seen_once_in_order_and_the_run_keeps_its_bits(plain, experiment, blobs, tmp_path):
    counter = Counter()
    hooks = [Emptying(), counter]
    run = train(experiment, dataset=blobs, run_dir=tmp_path / "run", hooks=hooks, progress="none")
    assert counter.seen == list(range(1, 21))
    kinds = [event[:2] for event in counter.events]
    assert kinds[0] == ("started", 0)
    assert kinds[-1] == ("ended", 20)
    assert [step for kind, step in kinds if kind == "at"] == [7, 14]
    assert [step for kind, step in kinds if kind == "evaluated"] == [10, 20]
    assert [step for kind, step in kinds if kind == "saved"] == [10, 20]
    assert_same_bits(run.state, plain.state)
    # The metrics of the steps are those of the log's means.
    steps, values = run.history.series("loss")
    assert np.mean(counter.losses[:7]) == pytest.approx(values[0], rel=1e-6)
    assert steps[0] == 7


@pytest.mark.slow
def test_through_a_stop_and_a_resume_each_step_is_seen_once(experiment, blobs, tmp_path):
    for stop_at in (5, 13, None):
        counter = Counter()
        train(experiment, dataset=blobs, run_dir=tmp_path / "run", hooks=[counter], stop_at=stop_at, progress="none")
    assert counter.seen == list(range(1, 21))


@pytest.mark.slow
def test_a_callback_that_stops_gives_the_run_and_the_same_command_goes_on(plain, experiment, blobs, tmp_path):
    class Enough(jaxnets.Callback):
        def stepped(self, run, step, metrics):
            if step == 9:
                run.stop("enough")

    counter = Counter()
    run = train(experiment, dataset=blobs, run_dir=tmp_path / "run", hooks=[Enough(), counter], progress="none")
    at = int(run.state.step)
    assert 9 <= at < 20
    assert counter.events[-1] == ("stopped", at, "enough")
    whole = train(experiment, dataset=blobs, run_dir=tmp_path / "run", hooks=[counter], progress="none")
    assert int(whole.state.step) == 20
    assert_same_bits(whole.state, plain.state)
    # Without a directory the run comes back as far as it is.
    partial = train(experiment, dataset=blobs, hooks=[Enough()], progress="none")
    assert 9 <= int(partial.state.step) < 20
    assert partial.predict(blobs.test["inputs"]).shape == (61,)


@pytest.mark.parametrize("event", ["stepped", "at", "evaluated", "saved", "started", "ended"])
def test_what_a_callback_raises_names_it_and_the_state_is_saved_first(event, plain, experiment, blobs, tmp_path):
    class Broken(jaxnets.Callback):
        every = 6

    def raises(self, *_):
        raise ZeroDivisionError("of mine")

    setattr(Broken, event, raises)
    with pytest.raises(CallbackError, match=r"the hook Broken#1 raised ZeroDivisionError at step \d+: of mine"):
        train(experiment, dataset=blobs, run_dir=tmp_path / "run", hooks=[Counter(), Broken()], progress="none")
    run = train(experiment, dataset=blobs, run_dir=tmp_path / "run", progress="none")
    assert_same_bits(run.state, plain.state)
    records = [record["step"] for record in run.history.records if record["split"] == "train"]
    assert records == [7, 14, 20]


KILLED = """
import json, os, signal, sys
sys.path[:0] = [{here!r}, {tests!r}]
import jaxnets
from conftest import leaves
from test_callbacks import Counter
from jaxnets.data import Digits

class Killed(Counter):
    def stepped(self, run, step, metrics):
        super().stepped(run, step, metrics)
        if step == 37 and os.environ.get("KILL"):
            os.kill(os.getpid(), signal.SIGKILL)

hook = Killed()
run = jaxnets.fit(jaxnets.models.MLP(widths=(8,)), Digits().open(), steps=60, batch_size=64, save_every=10,
                  run_dir=sys.argv[1], hooks=[hook], progress="none")
print(json.dumps([hook.seen, float(run.history.last("test")["loss"])]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["1", "8"])
def test_through_a_kill_each_step_is_seen_once_on_one_and_eight_devices(devices, tmp_path):
    here = os.path.dirname(__file__)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(KILLED).format(here=here, tests=os.path.dirname(here)))
    command = [sys.executable, str(script), str(tmp_path / "run")]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": devices}
    killed = subprocess.run(command, env=environment | {"KILL": "1"}, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    gone_on = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert gone_on.stdout.startswith(f"[{list(range(1, 61))}"), gone_on.stderr


def test_a_class_or_a_function_is_refused_with_the_remedy(experiment, blobs):
    with pytest.raises(UsageError, match="add parentheses to make one"):
        train(experiment, dataset=blobs, hooks=[Counter], progress="none")
    with pytest.raises(UsageError, match=r"Call\(function, every=100\)"):
        train(experiment, dataset=blobs, hooks=[lambda run: None], progress="none")


def test_the_weights_are_not_there_while_the_device_works_on_them(experiment, blobs):
    class Early(jaxnets.Callback):
        def stepped(self, run, step, metrics):
            run.variables  # noqa: B018

    with pytest.raises(CallbackError, match="in at, started and ended only"):
        train(experiment, dataset=blobs, hooks=[Early()], progress="none")


def test_a_function_logs_what_it_returns(experiment, blobs, tmp_path):
    def norm(run):
        return {"norm": sum(float((a**2).sum()) for a in run.variables["params"]["output"].values())}

    hooks = [Call(norm, every=10), DeviceMemory(every=10)]
    run = train(experiment, dataset=blobs, run_dir=tmp_path / "run", hooks=hooks, progress="none")
    steps, values = run.history.series("norm", "hook")
    assert steps == [10, 20]
    assert values[1] == pytest.approx(sum(float((a**2).sum()) for a in run.variables["params"]["output"].values()))


def test_the_first_process_alone_writes_what_is_shown(monkeypatch, tmp_path):
    for first in (False, True):
        monkeypatch.setattr(callback, "is_first", lambda first=first: first)
        callback.Progress(None, tmp_path, None, lambda *shown: None, None).show("words", "a text")
        assert (tmp_path / "samples").exists() == first


def test_a_callback_may_compute_with_jax(experiment, blobs):
    class Computing(jaxnets.Callback):
        every, seen = 20, 0.0

        def stepped(self, run, step, metrics):
            self.seen += float(jnp.asarray(np.ones(3))[None].sum())  # the loop itself may move no array like this

        def at(self, run):
            self.drawn = jax.random.normal(jax.random.key(0), (2,)) + np.arange(2.0)

    computing = Computing()
    train(experiment, dataset=blobs, hooks=[computing], progress="none")
    assert computing.seen == 3 * 20
    assert computing.drawn.shape == (2,)


def test_a_time_limit_counts_all_stretches(experiment, blobs, tmp_path):
    run = train(
        experiment, dataset=blobs, run_dir=tmp_path / "run", hooks=[TimeLimit("1s")], progress="none", stop_at=5
    )
    assert int(run.state.step) == 5
    limit = TimeLimit("1000s")
    limit.restore(999.99999)
    limit.started(None)
    assert limit.state() > 999.9999
    short = TimeLimit("1s")
    short.restore(5)
    stopped = train(experiment, dataset=blobs, hooks=[short], progress="none")
    assert int(stopped.state.step) < 20


def test_samples_and_predictions_are_written(experiment, blobs, tmp_path):
    hooks = [
        Samples(lambda run: f"step {run.step}", every=10),
        Samples(lambda run: np.arange(12).reshape(3, 4), every=20),
        WritePredictions(tmp_path / "predictions.csv"),
    ]
    run = train(experiment, dataset=blobs, run_dir=tmp_path / "run", hooks=hooks, progress="none")
    folder = tmp_path / "run" / "samples"
    assert (folder / "samples" / "10.txt").read_text() == "step 10"
    assert (folder / "samples" / "20.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [int(row["prediction"]) for row in rows] == run.predict(blobs.test["inputs"]).tolist()
    assert [int(row["target"]) for row in rows] == blobs.test["targets"].tolist()
    inside = Samples(lambda run: run.outputs({"inputs": blobs.test["inputs"][:2]}).shape, every=20)
    train(experiment, dataset=blobs, hooks=[inside], progress="none")
    assert inside.shown == [(20, (2, 4))]


INTERRUPTED = """
import os, signal, sys, types
sys.path[:0] = [{tests!r}]
sys.modules["ipykernel"] = types.ModuleType("ipykernel")
import jaxnets
from jaxnets.data import Digits

class Interrupt(jaxnets.Callback):
    def stepped(self, run, step, metrics):
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)

run = jaxnets.fit(jaxnets.models.MLP(widths=(8,)), Digits().open(), steps=4000, batch_size=64, hooks=[Interrupt()],
                  steps_per_call=1, progress="none")
print(0 < int(run.state.step) < 4000, run.predict(run.parts.dataset.test["inputs"][:2]).shape)
"""


@pytest.mark.slow
def test_an_interrupt_in_a_notebook_gives_the_run_as_far_as_it_is(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED.format(tests=os.path.dirname(os.path.dirname(__file__))))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.splitlines()[-1] == "True (2,)"
    assert "will stop after this step" in done.stderr
