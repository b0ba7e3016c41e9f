"""The memory of a device that a run's compiled step needs, by the compiler's analysis. Nothing is run."""

import dataclasses
import re
import time
from typing import TYPE_CHECKING, Any

import jax

from jaxnets.core.errors import UsageError
from jaxnets.core.files import physical_memory
from jaxnets.ops.beyond_promise import untimed_compilation
from jaxnets.parallel.hosts import from_first

if TYPE_CHECKING:
    from jaxnets.runs.build import Parts

# Some memory is needed for other programs and lost to fragmentation, so the whole memory is never available.
FILL = 0.92


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """The compiler's analysis of the program of a run, for one device."""

    seconds: float
    """Time that the compilation took."""
    arguments: int
    """Bytes of the state, the data and the batches."""
    temporary: int
    """Bytes of activations, gradients and copies."""
    peak: int
    """Bytes at the peak; more than the device has if the program does not fit."""
    program: Any = dataclasses.field(repr=False, default=None)
    """The compiled program; None if the compiler failed because it does not fit."""


def memory_here() -> int:
    """Bytes of one of the present devices; those of the host, divided among the devices, if these do not report theirs.

    With several processes it is that of the first one, so that all decide alike.
    """
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    here = int(limit or (physical_memory() or 8 << 30) // jax.local_device_count())
    return here if jax.process_count() == 1 else from_first(here >> 20) << 20


def step_memory(parts: "Parts") -> StepMemory:
    """Compile the program of a run; a program that does not fit is a result, not an error."""
    began = time.perf_counter()
    platform = parts.mesh.devices.flat[0].platform
    with jax.set_mesh(parts.mesh):
        lowered = parts.program.lower(parts.abstract)
        try:
            compiled = lowered.compile(compiler_options=untimed_compilation(platform))
        except jax.errors.JaxRuntimeError as error:
            needed = needed_bytes(str(error))
            if needed is None:
                raise UsageError(f"the compiler refuses the program: {str(error)[:2000]}") from error
            return StepMemory(time.perf_counter() - began, 0, needed, needed)
    memory = compiled.memory_analysis()
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    on_host = getattr(memory, "host_argument_size_in_bytes", 0)
    live = arguments + memory.output_size_in_bytes - memory.alias_size_in_bytes + temporary
    # The TPU's compiler knows when each buffer is free again; what it counts as temporary is the room that it sets aside. Its
    # peak is that of the memory that has more temporaries: in small programs that is the vector memory of the cores.
    height = min(getattr(memory, "peak_memory_in_bytes", 0) - on_host, arguments + temporary)
    peak = max(height, arguments) if platform == "tpu" else live
    return StepMemory(time.perf_counter() - began, arguments, temporary, peak, compiled)


def needed_bytes(error: str) -> int | None:
    """Bytes that a program needs, from the out-of-memory error of a compiler."""
    used = re.search(r"(?:Used |HLO temporaries \()([\d.]+)([KMGT])\b", error)
    if used is None:
        return None
    return int(float(used[1]) * 1024 ** (1 + "KMGT".index(used[2])))
