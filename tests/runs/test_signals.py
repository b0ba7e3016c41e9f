"""A run that is told to stop, killed, or started twice: what was saved stays, and the next start ends where it would have."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, assert_same_bits, replace, run_cli

from jaxnets.checkpoints.checkpoint import Checkpoints
from jaxnets.checkpoints.manifest import Manifest
from jaxnets.core.errors import CheckpointError, LockedError, PreemptedError
from jaxnets.data.feed import StreamFeed
from jaxnets.runs import lock as run_lock
from jaxnets.runs.train import train
from jaxnets.training.evaluate import Evaluator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

# A run of some seconds in many short calls, so that a signal finds it in every phase.
CONFIG = """
from jaxnets.config.experiment import Experiment
from jaxnets.data import Digits
from jaxnets.models import MLP
from jaxnets.tasks import Classification

def config():
    return Experiment(
        task=Classification(model=MLP(widths=(32,), dropout=0.1)), data=Digits(), steps=STEPS, batch_size=32,
        log_every=7, eval_every=50, save_every=25, steps_per_call=3,
    )
"""


def write_config(folder, steps):
    (folder / "tiny.py").write_text(CONFIG.replace("STEPS", str(steps)))


def start_cli(*arguments, cwd, env=None):
    full = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT), **(env or {})}
    command = [sys.executable, "-m", "jaxnets", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def log_of(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "examples_per_second"} for line in lines]


def digest_of(folder, run):
    return run_cli("ckpt", "digest", run, cwd=folder).stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory):
    """The run that nothing happened to: its log and the digest of its last state."""
    folder = tmp_path_factory.mktemp("unharmed")
    write_config(folder, 300)
    assert run_cli("train", "tiny.py", "--run-dir", "run", cwd=folder).returncode == 0
    return log_of(folder / "run"), digest_of(folder, "run")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_75_and_the_next_start_resumes(tmp_path, unharmed, number):
    write_config(tmp_path, 300)
    process = start_cli("train", "tiny.py", "--run-dir", "run", "--progress", "lines", cwd=tmp_path)
    log = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_text())
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75, told
    step = int(re.search(r"stopped at step (\d+), saved", told)[1])
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest == step
    assert not (tmp_path / "run" / ".lock").exists()
    again = run_cli("train", "tiny.py", "--run-dir", "run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"resuming run at step {step} of 300" in again.stderr or step == 300
    assert (log_of(tmp_path / "run"), digest_of(tmp_path, "run")) == unharmed


def test_a_signal_while_compiling_is_handled_after_the_step(tmp_path):
    # The signal comes as soon as the run directory is claimed: the program is not even traced then.
    write_config(tmp_path, 300)
    process = start_cli(
        "train", "tiny.py", "--run-dir", "run", cwd=tmp_path, env={"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    )
    wait_for(lambda: (tmp_path / "run" / "environment.json").exists())
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75, told
    assert "SIGTERM: will save and stop after this step" in told
    assert re.search(r"stopped at step \d+", told)
    assert "Traceback" not in told


@pytest.mark.slow
def test_a_second_signal_ends_the_process_immediately(tmp_path):
    (tmp_path / "slow.py").write_text(
        CONFIG.replace("STEPS", "10")
        + """
import time
from jaxnets.data.feed import ResidentFeed
original = ResidentFeed.load
def load(self, *arguments, **options):
    time.sleep(30)  # deep in something that does not look at flags
    return original(self, *arguments, **options)
ResidentFeed.load = load
"""
    )
    process = start_cli("train", "slow.py", "--run-dir", "run", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "run" / "environment.json").exists())
    time.sleep(0.5)
    process.terminate()
    process.terminate()  # the same again at once, as from a wrapper: that is one
    time.sleep(1.0)
    assert process.poll() is None
    began = time.monotonic()
    process.terminate()
    _, told = process.communicate(timeout=10)
    assert time.monotonic() - began < 3
    assert process.returncode == 128 + signal.SIGTERM
    assert "second SIGTERM" in told


@pytest.fixture
def tell(monkeypatch):
    """Sends SIGTERM to this very process, once."""
    sent = []

    def send():
        if not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)  # for the listening thread

    return send


def check_goes_on(experiment, options, folder):
    """Go on with a stopped run; it must end like one that was never stopped."""
    whole = train(experiment, run_dir=folder / "whole", **options)
    cut = train(experiment, run_dir=folder / "cut", **options)
    assert_same_bits(whole.state, cut.state)
    assert log_of(folder / "whole") == log_of(folder / "cut")


@pytest.mark.parametrize("at", [10, 20], ids=["in the middle", "at the end"])
def test_a_signal_in_an_evaluation_leaves_it_pending_and_it_is_run(tmp_path, experiment, blobs, one_device, tell, at):
    options = {"dataset": blobs, "mesh": one_device, "progress": "none"}
    short = replace(experiment, eval_batch_size=8)
    original = Evaluator.metrics
    with pytest.MonkeyPatch.context() as patch:

        def metrics(self, variables, *, poll):
            calls = iter(range(100))

            def noisy():
                if next(calls) == 3 and len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()) >= at // 7:
                    tell()
                poll()

            return original(self, variables, poll=noisy)

        patch.setattr(Evaluator, "metrics", metrics)
        with pytest.raises(PreemptedError, match=f"SIGTERM: stopped at step {at}, saved"):
            train(short, run_dir=tmp_path / "cut", **options)
    manifest = Checkpoints(tmp_path / "cut" / "checkpoints").folders.manifest(at)
    assert manifest.host["pending"] == ["evaluate"]
    assert not any(r["step"] == at and r["split"] == "test" for r in log_of(tmp_path / "cut"))
    check_goes_on(short, options, tmp_path)


@pytest.mark.slow
def test_a_pending_evaluation_is_run_once_and_counts_for_the_best(tmp_path, experiment, blobs, one_device, tell):
    options = {"dataset": blobs, "mesh": one_device, "progress": "none", "run_dir": tmp_path / "run"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "metrics", lambda self, variables, *, poll: (tell(), poll(), poll()))
        with pytest.raises(PreemptedError, match="stopped at step 10, saved"):
            train(experiment, **options)
    train(experiment, stop_at=10, **options)  # pays, and stops again
    train(experiment, stop_at=10, **options)
    assert [r["step"] for r in log_of(tmp_path / "run") if r["split"] == "test"] == [10]
    manifest = Checkpoints(tmp_path / "run" / "checkpoints").folders.verify(10)
    assert manifest.host["pending"] == []
    assert manifest.metrics["accuracy"] > 0
    check_goes_on(experiment, {k: v for k, v in options.items() if k != "run_dir"}, tmp_path)


def test_a_failed_last_save_is_not_reported_as_saved(tmp_path, experiment, blobs, one_device, tell):
    def refuses(self, folder):
        raise OSError(28, "No space left on device")

    long = replace(experiment, steps=3000, save_every=0, log_every=500, eval_every=0, steps_per_call=1)
    seen = []

    def batch_done(self, step, shown):
        seen.append(step)
        if step == 5:
            tell()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "write", refuses)
        patch.setattr("jaxnets.report.console.Silent.advance", batch_done)
        with pytest.raises(CheckpointError, match=r"No space left on device.*Checkpoints on disk: none"):
            train(long, dataset=blobs, mesh=one_device, run_dir=tmp_path / "run", progress="none")
    assert max(seen) < 3000


@pytest.mark.slow
def test_a_signal_while_saving_waits_for_the_save(tmp_path, experiment, blobs, one_device, tell):
    options = {"dataset": blobs, "mesh": one_device, "progress": "none"}
    experiment = replace(experiment, steps=3000, save_every=1000, log_every=500, eval_every=0, steps_per_call=1)
    original = Manifest.write

    def slow(self, folder):
        tell()
        time.sleep(0.5)
        original(self, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "write", slow)
        with pytest.raises(PreemptedError, match=r"SIGTERM: stopped at step \d+, saved"):
            train(experiment, run_dir=tmp_path / "cut", **options)
    assert 1000 in Checkpoints(tmp_path / "cut" / "checkpoints").steps
    check_goes_on(experiment, options, tmp_path)


@pytest.mark.slow
def test_a_signal_while_waiting_for_data_does_not_wait_for_them(tmp_path, experiment, blobs, one_device, tell):
    options = {"dataset": blobs, "mesh": one_device, "progress": "none"}
    streamed = replace(experiment, placement="host", steps_per_call=1)
    original, stuck = StreamFeed.load, threading.Event()

    def load(self, step, *arguments, **options):
        if step == 12:
            time.sleep(0.5)  # by now all that came before is used up, and the loop waits
            tell()
            stuck.wait(120)
        return original(self, step, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamFeed, "load", load)
        began = time.monotonic()
        with pytest.raises(PreemptedError, match="SIGTERM: stopped at step 12, saved"):
            train(streamed, run_dir=tmp_path / "cut", **options)
        assert time.monotonic() - began < 60
    assert Checkpoints(tmp_path / "cut" / "checkpoints").latest == 12
    stuck.set()
    check_goes_on(streamed, options, tmp_path)


@pytest.mark.slow
def test_signal_handlers_are_restored(tmp_path, experiment, blobs, one_device):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    train(replace(experiment, steps=2), dataset=blobs, mesh=one_device, run_dir=tmp_path / "run", progress="none")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.slow
def test_a_run_killed_at_random_instants_ends_like_the_uninterrupted_run(tmp_path, unharmed):
    # The long sweep is benchmarks/faults.py.
    write_config(tmp_path, 300)
    rng, kills = random.Random(0), 0
    for _ in range(6):
        process = start_cli("train", "tiny.py", "--run-dir", "run", cwd=tmp_path)
        try:
            process.wait(rng.uniform(1.5, 4.5))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.communicate()
    last = run_cli("train", "tiny.py", "--run-dir", "run", cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    assert kills > 0
    assert (log_of(tmp_path / "run"), digest_of(tmp_path, "run")) == unharmed


# --- the lock


def test_two_runs_never_share_a_directory(tmp_path):
    write_config(tmp_path, 100_000)
    first = start_cli("train", "tiny.py", "--run-dir", "run", cwd=tmp_path)
    try:
        wait_for(lambda: (tmp_path / "run" / "config.json").exists())
        second = run_cli("train", "tiny.py", "--run-dir", "run", cwd=tmp_path)
        assert second.returncode == 1
        assert re.search(rf"in use by process {first.pid} on '.*', last heard of \d+ s ago.*--run-dir", second.stderr)
    finally:
        first.kill()
        first.communicate()
    # Its holder is gone: taken over, and said so.
    write_config(tmp_path, 100_000)
    third = run_cli("train", "tiny.py", "--run-dir", "run", "--stop-at", 3, cwd=tmp_path)
    assert third.returncode == 0, third.stderr
    assert f"process {first.pid}" in third.stderr
    assert "ended without releasing it" in third.stderr
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_lock_from_another_machine_is_respected_while_its_heartbeat_is_recent(tmp_path, monkeypatch):
    def lock(age):
        holder = {"host": "elsewhere", "pid": 7, "token": "x", "beat": time.time() - age}
        (tmp_path / ".lock").write_text(json.dumps(holder))

    lock(5)
    with (
        pytest.raises(LockedError, match="in use by process 7 on 'elsewhere', last heard of 5 s ago"),
        run_lock.hold(tmp_path),
    ):
        pass
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.1)
    for wrong in (-3600, 3600):  # a clock that is ahead of ours or behind, and a heart that beats
        lock(wrong)
        timer = threading.Timer(0.1, lock, [wrong - 1])
        timer.start()
        with pytest.raises(LockedError), run_lock.hold(tmp_path):
            pass
        timer.join()
    lock(3600)
    said = []
    with run_lock.hold(tmp_path, say=said.append):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        with pytest.raises(LockedError), run_lock.hold(tmp_path):
            pass
    assert "process 7 on 'elsewhere' ended without releasing it" in said[0]
    assert not (tmp_path / ".lock").exists()


def test_of_many_concurrent_processes_one_gets_the_lock(tmp_path):
    held, most, wins = [], [], []

    def contend():
        for _ in range(30):
            try:
                with run_lock.hold(tmp_path):
                    held.append(1)
                    most.append(len(held))
                    time.sleep(0.001)
                    held.pop()
                    wins.append(1)
            except LockedError:
                pass

    threads = [threading.Thread(target=contend) for _ in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert max(most) == 1
    assert len(wins) > 5


def test_without_locks_of_the_system_the_heartbeat_decides_on_one_machine_too(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "fcntl_module", lambda: None)
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.05)
    with run_lock.hold(tmp_path), pytest.raises(LockedError, match=f"process {os.getpid()}"), run_lock.hold(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()
    gone = {"host": run_lock.socket.gethostname(), "pid": 7, "token": "x", "beat": time.time() - 3600}
    (tmp_path / ".lock").write_text(json.dumps(gone))
    with run_lock.hold(tmp_path):
        pass


def test_an_invalid_heartbeat_does_not_hold_the_lock(tmp_path):
    huge = '{"host": "a", "pid": 1, "token": "t", "beat": 1' + "0" * 400 + "}"
    for text in ("", "{", "[]", '{"beat": "x"}', '{"host": 3}', "\0" * 600, "9" * 700, huge):
        (tmp_path / ".lock").write_text(text)
        with run_lock.hold(tmp_path):
            pass
