"""The processes of a run report before they join, and those that do not come are named."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

from jaxnets.core.errors import LostProcessError, UsageError
from jaxnets.parallel import roll_call as module
from jaxnets.parallel.launch import Launch
from jaxnets.parallel.roll_call import roll_call


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def call(*launches, seconds=1.0, before=lambda: None):
    """What each process of a roll call meets: None, or its error."""
    met = [None] * len(launches)

    def one(place):
        try:
            roll_call(launches[place], seconds=seconds)
        except (LostProcessError, UsageError) as error:
            met[place] = error

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(launches))]
    for thread in threads:
        thread.start()
    before()
    for thread in threads:
        thread.join(30)
    return met


def launches(count, *indices, port=None, hosts=()):
    port = port or free_port()
    return [Launch("test", f"localhost:{port}", count, index, hosts) for index in indices]


def test_if_all_processes_report_they_continue_and_the_port_is_free_for_jax():
    processes = launches(4, 3, 1, 0, 2)
    assert call(*processes, seconds=20) == [None] * 4
    port = int(processes[0].coordinator.split(":")[1])
    with socket.socket() as s:
        s.bind(("", port))  # without SO_REUSEADDR: nothing of the roll call is left there


def test_the_first_closes_last_and_so_leaves_the_port_to_jax():
    (first,) = launches(2, 0)
    port = int(first.coordinator.split(":")[1])
    mine = {"index": 1, "processes": 2, "host": "b", "jax": module.versions()["jax"]}
    answers = []

    def slow():
        for _ in range(100):
            try:
                connection = socket.create_connection(("localhost", port), timeout=5)
            except OSError:
                time.sleep(0.01)
            else:
                break
        with connection:
            connection.sendall(json.dumps(mine).encode() + b"\n")
            answers.append(connection.recv(4096))
            time.sleep(0.3)

    assert call(first, seconds=10, before=slow) == [None]
    assert json.loads(answers[0])["missing"] == []
    with socket.socket() as s:
        s.bind(("", port))


def test_a_missing_process_is_named_on_every_process_that_reported():
    began = time.monotonic()
    met = call(*launches(4, 0, 2, hosts=("a", "b", "c", "d")))
    assert time.monotonic() - began < 8
    for error in met:
        assert isinstance(error, LostProcessError)
        assert "processes 1 (on b), 3 (on d) of 4 did not report within 1 s" in str(error)
        assert f"there are 0 on {socket.gethostname()}, 2 on {socket.gethostname()}" in str(error)


def test_a_missing_first_process_is_named():
    (error,) = call(*launches(2, 1), seconds=0.2)
    assert "process 1 of 2: process 0 at localhost:" in str(error)
    assert "cannot be reached" in str(error)


def test_two_processes_with_one_number_and_different_counts_are_refused():
    first, other, again = launches(3, 0, 1, 1)
    met = [error for error in call(first, other, again, seconds=10) if error is not None]
    assert met
    assert all(isinstance(error, UsageError) for error in met[:1])
    assert any("two processes have the number 1" in str(error) for error in met)
    port = free_port()
    met = call(*launches(2, 0, port=port), *launches(3, 1, port=port), seconds=10)
    assert all("process 0 was started as one of 2, process 1" in str(error) for error in met)


def test_another_version_of_jax_is_refused(monkeypatch):
    answers = iter(["0.10.2", "0.12.0"])
    lock = threading.Lock()

    def versions():
        with lock:
            return {"jax": next(answers)}

    monkeypatch.setattr(module, "versions", versions)
    met = call(*launches(2, 0, 1), seconds=10)
    assert all("install the same version on all machines" in str(error) for error in met)


@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.1\r\n\r\n\n",
        b"\n",
        json.dumps({"index": 1, "processes": 2, "host": "\x1b[2J", "jax": "0"}).encode() + b"\n",
        json.dumps({"index": True, "processes": 2, "host": "a", "jax": "0"}).encode() + b"\n",
        b"[" * 70_000,
    ],
)
def test_an_invalid_report_is_ignored(text):
    processes = launches(2, 0, 1)
    port = int(processes[0].coordinator.split(":")[1])
    stranger = []

    def knock():
        for _ in range(100):
            try:
                stranger.append(socket.create_connection(("localhost", port), timeout=5))
            except OSError:
                time.sleep(0.01)
            else:
                break
        stranger[0].sendall(text)

    assert call(processes[0], seconds=0.7, before=knock)[0].args[0].startswith("process 1 of 2 did not report")
    stranger[0].close()


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        (error,) = call(*launches(2, 0, port=port))
    assert f"port {port} of this machine" in str(error)


@pytest.mark.slow
def test_a_run_whose_third_process_is_missing_ends_in_seconds(tmp_path):
    command = [sys.executable, "-m", "jaxnets", "train", "digits_softmax", "--run-dir", "run", "--wait-seconds", "4"]
    said = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "3", "JAX_PLATFORMS": "cpu"}
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **said, "JAX_PROCESS_ID": str(index), "PYTHONPATH": str(ROOT)},
        )
        for index in range(2)
    ]  # fmt: skip
    ended = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert time.monotonic() - began < 40  # most of it is the import of JAX, twice at a time
    for _, error, code in ended:
        assert code == 1
        assert "jaxnets: process 2 of 3 did not report within 4 s" in error
        assert "Traceback" not in error
    assert not (tmp_path / "run").exists()
