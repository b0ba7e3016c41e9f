"""Several processes, one run: on the CPU, over Gloo."""

import os
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import ROOT, run_cli
from test_signals import log_of, wait_for, write_config

from jaxnets.ops.transfer import own_positions

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Gloo on loopback")


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def start_together(count, *arguments, cwd, by="flags"):
    """The same command in `count` processes that know of each other by flags, or by the variables that SLURM sets."""
    full = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    port = free_port()

    def known(index):
        if by == "flags":
            return ["--coordinator", f"localhost:{port}", "--processes", str(count), "--process-id", str(index)], {}
        return [], {
            "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": str(count),
            "SLURM_PROCID": str(index), "SLURM_LOCALID": str(index), "JAX_COORDINATOR_PORT": str(port),
        }  # fmt: skip

    return [
        subprocess.Popen(
            [sys.executable, "-m", "jaxnets", *map(str, arguments), *flags],
            cwd=cwd, env={**full, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for flags, variables in map(known, range(count))
    ]  # fmt: skip


def finish(processes, timeout=120):
    told = [process.communicate(timeout=timeout) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, told, strict=True)]


def numbers(folder, run):
    return [{k: v for k, v in r.items() if k not in ("step", "split")} for r in log_of(folder / run)]


@pytest.mark.slow
def test_one_two_and_four_processes_take_the_same_batches_and_the_same_state(tmp_path):
    write_config(tmp_path, 60)
    assert run_cli("train", "tiny.py", "--run-dir", "one", cwd=tmp_path).returncode == 0
    # One process, then two, then four: each goes on from the state the one before it left.
    assert run_cli("train", "tiny.py", "--run-dir", "run", "--stop-at", 20, cwd=tmp_path).returncode == 0
    for count, stop in ((2, 40), (4, 60)):
        before = run_cli("ckpt", "digest", "run", cwd=tmp_path).stdout
        done = finish(start_together(count, "train", "tiny.py", "--run-dir", "run", "--stop-at", stop, cwd=tmp_path))
        assert [code for code, _, _ in done] == [0] * count, done[0][2][-2000:] + done[1][2][-2000:]
        assert f"resuming run at step {stop - 20} of 60" in done[0][2]
        assert before.splitlines()[-1].endswith(f"all of step {stop - 20}")
        assert "jaxnets" not in done[1][2]  # the first one speaks for all
    # The same batches give the same losses, but for the order of additions; other batches would be .1 apart.
    one, many = numbers(tmp_path, "one"), numbers(tmp_path, "run")
    assert len(one) == len(many)
    for a, b in zip(one, many, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([*a.values()], [*b.values()], rtol=1e-4)
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
def test_all_processes_stop_together_if_one_gets_a_signal(tmp_path):
    write_config(tmp_path, 100_000)
    processes = start_together(2, "train", "tiny.py", "--run-dir", "run", cwd=tmp_path)
    log = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_text())
    processes[1].terminate()  # the one that does not write
    done = finish(processes)
    assert [code for code, _, _ in done] == [75, 75], done[0][2][-2000:]
    assert "saved" in done[0][2]


@pytest.mark.slow
def test_if_a_process_is_lost_the_others_end_and_the_next_start_resumes(tmp_path):
    write_config(tmp_path, 100_000)
    processes = start_together(2, "train", "tiny.py", "--run-dir", "run", cwd=tmp_path)
    wait_for(lambda: (tmp_path / "run" / "checkpoints" / "25" / "manifest.json").exists())
    processes[1].kill()
    began = time.monotonic()
    # Usually the broken collective is noticed first and told; on a loaded machine it may be the heartbeat, by an abort.
    code = processes[0].wait(timeout=90)
    assert code in (1, -6)
    assert time.monotonic() - began < 60  # the promise of docs/reliability.md
    told = finish(processes)[0][2]
    if code == 1:
        assert "jaxnets: process 0 of 2: another process of the run is gone" in told
        assert "Traceback" not in told
    again = run_cli("train", "tiny.py", "--run-dir", "run", "--stop-at", 25, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "resuming run at step" in again.stderr


@pytest.mark.slow
def test_streamed_batches_of_two_processes_are_those_of_data_on_the_devices(tmp_path):
    write_config(tmp_path, 20)
    for place, by in (("host", "flags"), ("device", "SLURM")):
        arguments = ("train", "tiny.py", "--run-dir", place, "--placement", place)
        done = finish(start_together(2, *arguments, cwd=tmp_path, by=by))
        assert [code for code, _, _ in done] == [0, 0], done[0][2][-2000:] + done[1][2][-2000:]
        assert ("2 processes train together, as SLURM says" in done[0][2]) == (by == "SLURM")
    digests = [run_cli("ckpt", "digest", place, cwd=tmp_path).stdout.splitlines()[-1] for place in ("host", "device")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("size", [8, 12])
def test_a_process_reads_the_rows_of_its_own_devices(size):
    class Half:
        """A sharding of `[K, size]` over four devices, of which the second and the fourth are here."""

        is_fully_addressable = False

        def addressable_devices_indices_map(self, shape):
            part = shape[1] // 4
            return {d: (slice(None), slice(d * part, (d + 1) * part)) for d in (3, 1)}

    own = own_positions(Half(), (5, size), dim=1)
    part = size // 4
    assert own.tolist() == [*range(part, 2 * part), *range(3 * part, size)]
    assert own_positions(jax.sharding.SingleDeviceSharding(jax.devices()[0]), (5, size), dim=1) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--processes", 2), "processes and process_id go with coordinator"),
        (("--coordinator", "here", "--processes", 2), "coordinator is host:port of the first process, got 'here'"),
        (("--coordinator", "here:1", "--processes", 2, "--process-id", 2), "process_id is in 0 .. processes - 1"),
    ],
)
def test_mistakes_in_the_process_flags_are_refused(tmp_path, options, message):
    write_config(tmp_path, 5)
    done = run_cli("train", "tiny.py", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
