"""Roll call: before the processes of a run join, each reports to the first one, which names the missing ones.

`jax.distributed.initialize` waits for minutes if a process is missing, and then aborts without naming it. The roll call
uses the same host and port just before, over plain sockets: one line of JSON from each process, one line back.
"""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from typing import Any

from jaxnets.core.errors import LostProcessError, UsageError
from jaxnets.core.versions import versions
from jaxnets.parallel.launch import Launch

# Limits of one message: bytes, and seconds between two of its parts.
LONGEST, PATIENCE = 1 << 12, 2.0
# After this time the first process prints the missing ones.
QUIET_SECONDS = 10.0
PAUSE = 0.1

Say = Callable[[str], None]


def roll_call(launch: Launch, *, seconds: float, say: Say = lambda text: None) -> None:
    """Return when all processes have reported to the first.

    Args:
        launch: this process and where the first one is.
        seconds: how long to wait for the others.
        say: takes a line about the processes that the first one waits for.

    Raises:
        LostProcessError: some are missing; the message names them, on every process that reported.
        UsageError: two processes have one number, or they disagree on how many there are or on the version of JAX.
    """
    mine = {
        "index": launch.index,
        "processes": launch.processes,
        "host": socket.gethostname(),
        "jax": versions()["jax"],
    }
    end = time.monotonic() + seconds
    answer = _receive_all(launch, mine, end, say) if launch.index == 0 else _report(launch, mine, end)
    if answer["wrong"]:
        raise UsageError(answer["wrong"])
    if answer["missing"]:
        raise LostProcessError(_absence(launch, answer, seconds))


def _receive_all(launch: Launch, mine: dict[str, Any], end: float, say: Say) -> dict[str, Any]:
    """The first process: collect the reports until all are there or the time is over, then answer them all."""
    came, wrong, said = {0: mine}, "", False
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(launch))
        server.settimeout(PAUSE)
        waiting = []
        while len(came) < launch.processes and not wrong and time.monotonic() < end:
            missing = [index for index in range(launch.processes) if index not in came]
            if not said and time.monotonic() - begun > QUIET_SECONDS:
                said = True
                say(f"waiting for {_named(missing, launch)} of {launch.processes} processes")
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            report = _read(stack.enter_context(connection))
            if report is None:
                continue  # not one of ours: a port scanner, a health check
            waiting.append(connection)
            wrong = _mistake(report, mine, came)
            came[report["index"]] = report
        missing = [index for index in range(launch.processes) if index not in came]
        hosts = {index: report["host"] for index, report in came.items()}
        answer = {"missing": missing, "came": hosts, "wrong": wrong}
        for connection in waiting:
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(answer).encode() + b"\n")
        for connection in waiting:
            # The other end closes first; else the operating system would keep this port from JAX for a minute.
            with contextlib.suppress(OSError):
                connection.recv(1)
    return answer


def _listen(launch: Launch) -> socket.socket:
    port = int(launch.coordinator.rsplit(":", 1)[1])
    both = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", port),
            family=socket.AF_INET6 if both else socket.AF_INET,
            dualstack_ipv6=both,
            backlog=launch.processes,
        )
    except OSError as error:
        raise LostProcessError(
            f"port {port} of this machine ({socket.gethostname()}) cannot be opened ({error}), and the other processes look "
            f"for this one there; end the program that has it (an earlier run?), or choose another port: --coordinator "
            f"HOST:PORT, or JAX_COORDINATOR_PORT for all processes"
        ) from error


def _report(launch: Launch, mine: dict[str, Any], end: float) -> dict[str, Any]:
    """Another process: report to the first one, which may start later, and wait for its answer."""
    host, _, port = launch.coordinator.rpartition(":")
    why = "it does not answer"
    # The first may begin to wait a little later than this one, and answers when its own time is over.
    while time.monotonic() < end + PATIENCE:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE) as connection:
                connection.sendall(json.dumps(mine).encode() + b"\n")
                connection.settimeout(max(PATIENCE, end - time.monotonic() + 2 * PATIENCE))
                answer = _line(connection)
                if answer is not None and {"missing", "came", "wrong"} <= answer.keys():
                    return answer
                why = "another program answers there"
        except OSError as error:
            why = str(error)
        time.sleep(PAUSE)
    raise LostProcessError(
        f"process {launch.index} of {launch.processes}: process 0 at {launch.coordinator} cannot be reached ({why}). Start "
        f"the same command there as well, and see that this machine may open that port"
    )


def _line(connection: socket.socket) -> dict[str, Any] | None:
    """One object of JSON; None if something else was received."""
    text = b""
    while not text.endswith(b"\n") and len(text) < LONGEST:
        part = connection.recv(LONGEST)
        if not part:
            break
        text += part
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _read(connection: socket.socket) -> dict[str, Any] | None:
    """The report of a process; None if it is none."""
    connection.settimeout(PATIENCE)
    try:
        report = _line(connection)
    except OSError:
        return None
    kinds = {"index": int, "processes": int, "host": str, "jax": str}
    if report is None or any(type(report.get(name)) is not kind for name, kind in kinds.items()):
        return None
    return report if report["host"].isprintable() and report["jax"].isprintable() else None


def _mistake(report: dict[str, Any], mine: dict[str, Any], came: dict[int, dict[str, Any]]) -> str:
    """The fault of a report, in words; "" if there is none."""
    index, host = report["index"], report["host"]
    if report["processes"] != mine["processes"]:
        return (
            f"process 0 was started as one of {mine['processes']}, process {index} (on {host}) as one of "
            f"{report['processes']}; give all the same number"
        )
    if index in came or not 0 <= index < mine["processes"]:
        first = came.get(index, mine)["host"]
        return f"two processes have the number {index} (on {first} and on {host}); give each its own, from 0"
    if report["jax"] != mine["jax"]:
        return (
            f"process 0 (on {mine['host']}) has jax {mine['jax']}, process {index} (on {host}) has {report['jax']}; install "
            f"the same version on all machines"
        )
    return ""


def _named(indices: list[int], launch: Launch) -> str:
    """Processes in words, with their machines where those are known."""
    hosts = launch.hosts
    shown = ", ".join(f"{index} (on {hosts[index]})" if index < len(hosts) else str(index) for index in indices[:8])
    more = f" and {len(indices) - 8} more" if len(indices) > 8 else ""
    return f"process{'es' if len(indices) > 1 else ''} {shown}{more}"


def _absence(launch: Launch, answer: dict[str, Any], seconds: float) -> str:
    missing = [int(index) for index in answer["missing"]]
    came = ", ".join(f"{index} on {host}" for index, host in list(answer["came"].items())[:8])
    return (
        f"{_named(missing, launch)} of {launch.processes} did not report within {seconds:g} s; there are {came}. Start the "
        f"same command on every machine at the same time, look at the log of the missing ones, or wait longer with "
        f"--wait-seconds; --processes 1 trains in one process alone"
    )
