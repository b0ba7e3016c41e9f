"""Programs with collectives, one after the other where the back end needs it."""

from typing import TypeVar

import jax

T = TypeVar("T")


def one_at_a_time(results: T) -> T:
    """Results of a program that was just dispatched; on a CPU that acts as several devices, wait for them.

    There, programs that do not depend on each other run at the same time, and each device may begin with another one: their
    collectives then wait for each other for ever, or XLA aborts the process. A GPU or TPU runs programs in the order in which
    they were dispatched, so nothing is waited for.
    """
    for leaf in jax.tree.leaves(results):
        devices = leaf.sharding.device_set
        if len(devices) > 1 and next(iter(devices)).platform == "cpu":
            return jax.block_until_ready(results)
    return results
