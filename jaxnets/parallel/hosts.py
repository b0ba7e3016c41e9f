"""Runs with several processes: start-up, broadcasts and barriers.

Every process runs the same program; only the first writes the run directory and the console. With one process they
cost nothing.
"""

import contextlib
import os
from collections.abc import Iterator

import jax
import numpy as np

from jaxnets.core.errors import LostProcessError, UsageError, first_line, note
from jaxnets.ops.beyond_promise import multihost
from jaxnets.parallel.launch import Launch, detect, own_devices, tpu_metadata
from jaxnets.parallel.roll_call import roll_call


def requested(coordinator: str, processes: int, index: int) -> Launch | None:
    """How this process was started with others, by flags or else by the environment; None if it is alone.

    Args:
        coordinator: `host:port` of the first process, or "".
        processes: how many there are; 0 leaves it to the environment, 1 without a coordinator trains alone.
        index: number of this process, from 0.

    Raises:
        UsageError: flags that do not go together, or variables of a launcher that are not complete.
    """
    if coordinator:
        if processes < 1:
            raise UsageError("coordinator needs processes, the number of processes of the run")
        return Launch("--coordinator", coordinator, processes, index, local_devices=own_devices(os.environ))
    if processes == 0 and index == 0:
        return detect(os.environ, tpu_metadata())
    if (processes, index) != (1, 0):
        raise UsageError("processes and process_id go with coordinator, host:port of the first process")
    return None


def start(launch: Launch, *, wait_seconds: float = 60.0, heartbeat_seconds: int = 30) -> None:
    """Join the other processes of the run; call it before anything uses a device.

    Args:
        launch: this process, and where the first one is.
        wait_seconds: how long to wait for the others.
        heartbeat_seconds: if a process sends no heartbeat for this long, all processes end.

    Raises:
        LostProcessError: a process did not come in time; the message names it.
    """
    first = launch.index == 0
    roll_call(launch, seconds=wait_seconds, say=note if first else lambda text: None)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        launch.coordinator,
        launch.processes,
        launch.index,
        local_device_ids=launch.local_devices,
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=heartbeat_seconds,
    )
    if first and launch.launcher != "--coordinator":
        note(
            f"{launch.processes} processes train together, as {launch.launcher} says; --processes 1 trains in this one alone"
        )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A context for work that needs every process: a failure ends all of them.

    Raises:
        LostProcessError: a computation over all processes failed.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise LostProcessError(
            f"process {jax.process_index()} of {jax.process_count()}: another process of the run is gone, so this one ends as "
            f"well ({first_line(error)}). Start the same command on all of them again to resume from the last checkpoint"
        ) from error


def is_first() -> bool:
    """Whether this is the first process, which writes files and the console."""
    return jax.process_index() == 0


def from_first(value: int) -> int:
    """Broadcast the value of the first process to every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost().broadcast_one_to_all(np.int64(value).astype(np.int32)))


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process; all processes must call this at the same point."""
    if jax.process_count() == 1:
        return flag
    with jax.transfer_guard("allow"):
        return bool(np.asarray(multihost().process_allgather(np.int32(flag))).any())


def meet(name: str) -> None:
    """Wait until every process has reached this barrier."""
    if jax.process_count() > 1:
        multihost().sync_global_devices(name)
