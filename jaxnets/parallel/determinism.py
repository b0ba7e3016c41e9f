"""Bit-identical results in every run, also on a GPU."""

import os

import jax

from jaxnets.core.errors import UsageError
from jaxnets.ops.beyond_promise import devices_started

FLAG = "--xla_gpu_deterministic_ops=true"


def require_determinism() -> None:
    """Set the XLA flag for deterministic GPU operations; call it before JAX initialises its devices.

    CPUs and TPUs are deterministic without it. On a GPU it excludes operations that add in arbitrary order, and the choice
    of algorithms by timing.

    Raises:
        UsageError: JAX has already initialised a GPU.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if FLAG in flags:
        return
    if devices_started() and jax.default_backend() == "gpu":
        raise UsageError(
            f"deterministic=True comes too late: JAX has initialised the GPU already. Set XLA_FLAGS={FLAG} in the "
            f"environment, or request it before the first array is made"
        )
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}".strip()
