"""The same bits each time, on a GPU as well."""

import os

import jax

from jaxnets.core.errors import UsageError
from jaxnets.ops.beyond_promise import devices_started

FLAG = "--xla_gpu_deterministic_ops=true"


def require_determinism() -> None:
    """Set what a GPU needs to repeat its bits; has to come before JAX starts its devices.

    CPUs and TPUs repeat theirs without it. On a GPU it rules out operations that add in no fixed order, and the choice of
    algorithms by timing them.

    Raises:
        UsageError: the devices are started already, and one of them is a GPU.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if FLAG in flags:
        return
    if devices_started() and jax.default_backend() == "gpu":
        raise UsageError(
            f"deterministic=True comes too late: JAX has started the GPU already. Set XLA_FLAGS={FLAG} in the environment, or "
            f"ask before the first array is made"
        )
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}".strip()
