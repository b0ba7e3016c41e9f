"""Several processes, one run: who speaks, and what all must agree on.

Every process runs the same program; the first one writes the run directory and the console. With one process everything
here is free.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np

from jaxnets.core.errors import LostProcessError, UsageError, first_line
from jaxnets.ops.beyond_promise import multihost


def start(coordinator: str, processes: int, index: int, *, heartbeat_seconds: int = 30) -> None:
    """Join the other processes of the run; before anything else touches a device.

    Args:
        coordinator: `host:port` of the first process, the same for all.
        processes: how many there are.
        index: which one this is, from 0.
        heartbeat_seconds: if a process is not heard of for this long, all end.
    """
    if processes < 1 or not 0 <= index < processes:
        raise UsageError(f"process_id is in 0 .. processes - 1, got process_id {index} of processes {processes}")
    if ":" not in coordinator:
        raise UsageError(f"coordinator is host:port of the first process, got {coordinator!r}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, processes, index, heartbeat_timeout_seconds=heartbeat_seconds)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Work that needs every process: what fails here fails for all, and at once.

    Raises:
        LostProcessError: a computation over all processes broke off.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise LostProcessError(
            f"process {jax.process_index()} of {jax.process_count()}: another process of the run is gone, so this one ends as "
            f"well ({first_line(error)}). Start the same command on all of them again; it goes on from the last checkpoint"
        ) from error


def is_first() -> bool:
    """Whether this process writes for all."""
    return jax.process_index() == 0


def from_first(value: int) -> int:
    """The first process's value, on every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost().broadcast_one_to_all(np.int64(value).astype(np.int32)))


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process; all must ask at the same point."""
    if jax.process_count() == 1:
        return flag
    with jax.transfer_guard("allow"):
        return bool(np.asarray(multihost().process_allgather(np.int32(flag))).any())


def meet(name: str) -> None:
    """Wait until every process has come here."""
    if jax.process_count() > 1:
        multihost().sync_global_devices(name)
