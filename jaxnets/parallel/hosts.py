"""Runs with several processes: start-up, broadcasts and barriers.

Every process runs the same program; only the first writes the run directory and the console. With one process they
cost nothing.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

from jaxnets.core.errors import LostProcessError, UsageError, first_line
from jaxnets.ops.beyond_promise import multihost


def start(coordinator: str, processes: int, index: int, *, heartbeat_seconds: int = 30) -> None:
    """Join the other processes of the run; call it before anything uses a device.

    Args:
        coordinator: `host:port` of the first process, the same for all.
        processes: number of processes.
        index: number of this process, from 0.
        heartbeat_seconds: if a process sends no heartbeat for this long, all processes end.
    """
    if processes < 1 or not 0 <= index < processes:
        raise UsageError(f"process_id is in 0 .. processes - 1, got process_id {index} of processes {processes}")
    if ":" not in coordinator:
        raise UsageError(f"coordinator is host:port of the first process, got {coordinator!r}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, processes, index, heartbeat_timeout_seconds=heartbeat_seconds)


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
