"""Devices that are not there: `v5e:2x4`, `v5p:64`, `h100:8`. Programs are compiled for them, and nothing runs on them.

This takes their compiler, which `pip install "jaxnets[tpu]"` and `"jaxnets[cuda12]"` bring to any machine. Where it is
missing, devices of the CPU stand for the same number of accelerators: shardings and collectives are the same, memory and
fusions are the CPU's.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from jaxnets.accelerators.gpu import described
from jaxnets.core.errors import UsageError, note
from jaxnets.ops.beyond_promise import topology_devices
from jaxnets.parallel.chips import CHIPS, Chip, chip_named


@dataclasses.dataclass(frozen=True)
class Topology:
    """A number of accelerators of one kind, arranged."""

    chip: Chip
    shape: tuple[int, ...]
    """Sizes of the torus of a TPU; (count,) for GPUs."""

    @property
    def count(self) -> int:
        """Number of devices."""
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        """As a user types it, and as the compiler of a TPU takes it."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def hosts(self) -> int:
        """Number of machines."""
        return -(-self.count // self.chip.host)


def parse(text: str) -> Topology:
    """The topology of `v5e:2x4` (the shape), `v5e:8` (the number of chips, in their usual shape) or `h100:8`.

    Raises:
        UsageError: no such accelerator or shape.
    """
    name, colon, sizes = text.partition(":")
    chip = chip_named(name)
    if not colon or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
        raise UsageError(f"accelerators are a kind and a shape or a number, such as v5e:2x4 or h100:8; got {text!r}")
    shape = tuple(int(size) for size in sizes.split("x"))
    if chip.platform == "gpu":
        if len(shape) > 1:
            raise UsageError(
                f"{text!r}: GPUs are joined by switches and have no shape; write {name}:{math.prod(shape)}"
            )
        return Topology(chip, shape)
    if len(shape) == 1:
        shape = _usual_shape(chip, shape[0])
    if len(shape) != chip.dims:
        raise UsageError(f"{text!r}: a {name} slice has {chip.dims} dims, such as {_example(chip)}; got {len(shape)}")
    if math.prod(shape) > 1 and any(size % 2 for size in shape[:2]):
        raise UsageError(
            f"{text!r}: a host holds 2x2 chips, so the first two sizes are even; take {_example(chip)}, say"
        )
    if math.prod(shape) > chip.group:
        raise UsageError(f"{text!r}: a {name} pod has {chip.group:,} chips; got {math.prod(shape):,}")
    return Topology(chip, shape)


def _usual_shape(chip: Chip, count: int) -> tuple[int, ...]:
    """The shape nearest to a cube, in rising order: 8 chips of a v5e are 2x4."""
    if count == 1:
        return (1,) * chip.dims
    if chip.dims == 3 and count == 4:
        return (2, 2, 1)
    if count & (count - 1) or count < 4:
        raise UsageError(
            f"{chip.name}:{count}: slices have 1, 4, 8, 16, ... chips; for another write its shape, {_example(chip)}"
        )
    power = count.bit_length() - 1
    low, more = divmod(power, chip.dims)
    return tuple(1 << (low + (dim >= chip.dims - more)) for dim in range(chip.dims))


def _example(chip: Chip) -> str:
    return f"{chip.name}:{'x'.join(['2', '2', '4'][-chip.dims :])}"


def has_compiler(topology: Topology) -> bool:
    """Whether the accelerator's own compiler is installed here."""
    if topology.chip.platform == "gpu":
        return any(importlib.util.find_spec(name) is not None for name in ("jax_cuda12_plugin", "jax_cuda13_plugin"))
    # That of a v4 compiles for its cores, of which a program sees the two of a chip as one device.
    return topology.chip.name != "v4" and importlib.util.find_spec("libtpu") is not None


def asked_for(text: str, flag: str) -> tuple[Topology, Sequence[Any], bool]:
    """The topology that a user names, its devices, and whether devices of the CPU stand for them.

    Raises:
        UsageError: nothing is named, or there is no such topology.
    """
    if not text:
        raise UsageError(
            f"say on which accelerators: {flag} v5e:2x4 or {flag} h100:8, say; known are {', '.join(CHIPS)}"
        )
    topology = parse(text)
    stand_in = not has_compiler(topology)
    return topology, devices_of(topology, stand_in=stand_in), stand_in


def note_stand_in(topology: Topology) -> None:
    """Say that the compiler is that of the CPU, and how to get the other."""
    extra = "tpu" if topology.chip.platform == "tpu" else "cuda12"
    why = f"install jaxnets[{extra}] for its own"
    note(f"compiled for devices of the CPU in place of {topology.name}, by the CPU's compiler; {why}")


def devices_of(topology: Topology, *, stand_in: bool = False) -> Sequence[Any]:
    """The devices, for `make_mesh`; call it before JAX starts its own.

    Args:
        topology: which.
        stand_in: take devices of the CPU in their place.

    Raises:
        UsageError: the accelerator's compiler is not installed, is in use by another process, or refuses the shape.
    """
    import jax

    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")
    if stand_in:
        jax.config.update("jax_num_cpu_devices", topology.count)
        return jax.devices("cpu")
    if not has_compiler(topology):
        extra = "tpu" if topology.chip.platform == "tpu" else "cuda12"
        raise UsageError(
            f"compiling for {topology.name} needs its compiler, which `pip install 'jaxnets[{extra}]'` brings to any machine"
        )
    if topology.chip.platform == "gpu":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        return _gpus(topology)
    # It would ask a metadata server of the cloud what machine this is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # Its lock is for devices; programs may be compiled side by side.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    alone = {"chips_per_host_bounds": (1, 1, 1)} if topology.count == 1 else {}
    try:
        return topology_devices("tpu", topology.name, **alone)
    except jax.errors.JaxRuntimeError as error:
        if "lockfile" in str(error) or "already in use" in str(error):
            raise UsageError(
                "another compilation for a TPU is running on this machine, and the compiler allows one; wait until it ends"
            ) from error
        raise UsageError(f"the compiler refuses {topology.name}: {str(error).splitlines()[0]}") from error


def _gpus(topology: Topology) -> Sequence[Any]:
    """GPUs in hosts of the usual number."""
    each = min(topology.count, topology.chip.host)
    if topology.count % each:
        raise UsageError(
            f"{topology.name}: a host has {each} GPUs; take a multiple of {each}, or fewer than that for a part of one"
        )
    shape = f"1x{topology.count // each}x{each}"
    return topology_devices("cuda", topology.name, topology=shape, target_config=described(topology.chip.name))
