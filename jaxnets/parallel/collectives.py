"""Runs programs with collectives one after another if the back end needs it."""

from typing import TypeVar

import jax

T = TypeVar("T")


def one_at_a_time(results: T) -> T:
    """Return the results of a program just dispatched; on a CPU with several virtual devices, wait for them first.

    On such a CPU independent programs run at the same time, and each device may start with a different one. Their
    collectives then deadlock, or XLA aborts the process. GPUs and TPUs run programs in the order of dispatch, so there is no
    wait.
    """
    for leaf in jax.tree.leaves(results):
        devices = leaf.sharding.device_set
        if len(devices) > 1 and next(iter(devices)).platform == "cpu":
            return jax.block_until_ready(results)
    return results
