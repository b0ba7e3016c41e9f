"""The mesh: a grid of devices with named axes.

`data` replicates the parameters and splits the batch; `fsdp` splits both; `tensor` splits layers. Every mesh has these three;
an axis of size 1 costs nothing, so one device uses the same code as many. `replica`, `pipeline`, `expert` and `sequence` are
there if they are larger than 1.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets.core.errors import UsageError, note
from jaxnets.core.typecheck import check_choices
from jaxnets.core.types import Placement
from jaxnets.ops.axes import AXES
from jaxnets.ops.beyond_promise import device_grid

# The axes in the order of the grid: neighbours along the last one are neighbours in the machine, so what exchanges most is
# last, and what exchanges once a step is first.
ORDER = ("replica", "pipeline", "data", "fsdp", "expert", "sequence", "tensor")
ALWAYS = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Sizes of the mesh axes; -1 (at most once) takes the remaining devices."""

    data: int = -1
    """Number of copies of the parameters, each with a share of the batch."""
    fsdp: int = 1
    """Number of shards of the state (see `zero`); each also takes a share of the batch."""
    tensor: int = 1
    """Number of shards of the layers, by the partition rules."""
    expert: int = 1
    """Number of shards of the experts of a mixture; each also takes a share of the batch."""
    sequence: int = 1
    """Number of parts of each sequence, for texts too long for one device."""
    pipeline: int = 1
    """Number of stages of a pipeline: each holds some of the layers, and also takes a share of the batch outside of them."""
    replica: int = 1
    """Number of groups of machines that a slower network joins, such as TPU slices; each has copies of the parameters."""
    zero: Literal[1, 2, 3] = 3
    """What `fsdp` splits (ZeRO, Rajbhandari et al. 2020). 1: optimizer state; 2: and gradients; 3: and parameters."""
    offload: Literal["none", "optimizer"] = "none"
    """The part of the state that is kept in the memory of the host. optimizer: its state, which moves to the devices for the
    update and back (ZeRO-Offload, Ren et al. 2021, but updated on the device)."""

    def __post_init__(self) -> None:
        check_choices(self)

    def sizes(self, devices: int) -> dict[str, int]:
        """Axis -> size for a number of devices, in the order of the grid.

        Raises:
            UsageError: there are too few devices, or no multiple where a size is -1.
        """
        given = {axis: getattr(self, axis) for axis in ORDER}
        if any(size < 1 and size != -1 for size in given.values()) or list(given.values()).count(-1) > 1:
            raise UsageError(f"mesh sizes are at least 1, or -1 (once) for the rest of the devices; got {self}")
        product = math.prod(size for size in given.values() if size != -1)
        rest = [axis for axis, size in given.items() if size == -1]
        if rest and devices % product == 0:
            given[rest[0]] = devices // product
        elif rest or product > devices:
            named = ", ".join(f"{axis}={size}" for axis, size in given.items() if axis in ALWAYS or size != 1)
            raise UsageError(
                f"mesh {named} needs {'a multiple of ' if rest else ''}{product} devices, but there are {devices}; "
                f"change the sizes, or set one of them to -1"
            )
        return {axis: size for axis, size in given.items() if axis in ALWAYS or size > 1}


def make_mesh(shape: MeshShape | None = None, *, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over `devices` (by default all); enter it with `jax.set_mesh(mesh)`.

    A shape of fewer devices takes the first ones, with a note; over several processes it is refused, since each takes part.
    """
    devices = jax.devices() if devices is None else devices
    sizes = (shape or MeshShape()).sizes(len(devices))
    count = math.prod(sizes.values())
    if count < len(devices):
        if jax.process_count() > 1:
            raise UsageError(
                f"the mesh has {count} devices, but the processes have {len(devices)}; every process takes part, so set one "
                f"size to -1, or start fewer processes"
            )
        note(f"the mesh has {count} devices; {len(devices) - count} of {len(devices)} are not used")
        devices = devices[:count]
    names, kinds = tuple(sizes), (AxisType.Auto,) * len(sizes)
    if sizes.get("replica", 1) > 1:
        groups = _groups(devices, sizes["replica"])
        return Mesh(device_grid(groups, tuple(sizes.values())[1:]), names, axis_types=kinds)
    # The default of JAX is Explicit axes, under which Linen layers raise.
    try:
        return jax.make_mesh(tuple(sizes.values()), names, axis_types=kinds, devices=devices)
    except NotImplementedError:  # the axes of a torus of TPUs have to be divided for these sizes
        return Mesh(device_grid([devices], tuple(sizes.values()))[0], names, axis_types=kinds)


def _groups(devices: Sequence[Any], count: int) -> list[list[Any]]:
    """The devices in equal groups, such that a fast network joins those of one group, as far as they say.

    Raises:
        UsageError: the machine's own groups (TPU slices) do not divide into as many.
    """
    slices: dict[int, list[Any]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", 0) or 0, []).append(device)
    if len(slices) > 1 and (len(slices) % count or len({len(members) for members in slices.values()}) > 1):
        raise UsageError(
            f"mesh.replica is {count}, but the devices are {len(slices)} slices of {sorted(map(len, slices.values()))}; set "
            f"it to a number that divides the slices evenly"
        )
    ordered = [device for index in sorted(slices) for device in slices[index]]
    size = len(ordered) // count
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def batch_devices(mesh: Mesh) -> int:
    """The number of shares that a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in batch_axes(mesh))


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes that split a batch."""
    return tuple(axis for axis in AXES["batch"] or () if axis in mesh.shape)


def padded_batch(batch_size: int, mesh: Mesh, *, micro_batches: int = 1) -> int:
    """Rows of a batch that is filled up until every device gets the same number of rows of every micro-batch.

    Raises:
        UsageError: the batch is not divisible into the micro-batches.
    """
    if micro_batches < 1 or batch_size % micro_batches:
        raise UsageError(
            f"batch_size {batch_size} is not divisible into {micro_batches} micro-batches; "
            f"choose a batch_size that is a multiple of micro_batches"
        )
    each = batch_devices(mesh) * micro_batches
    return -(-batch_size // each) * each


def check_batch(batch_size: int, mesh: Mesh, *, micro_batches: int = 1) -> None:
    """Raise `UsageError` unless every device gets the same number of rows of every micro-batch without masked ones."""
    shares, axes = batch_devices(mesh), batch_axes(mesh)
    if micro_batches < 1 or batch_size % micro_batches:
        raise UsageError(
            f"batch_size {batch_size} is not divisible into {micro_batches} micro-batches; "
            f"choose a batch_size that is a multiple of micro_batches"
        )
    if batch_size // micro_batches % shares:
        near = max(1, round(batch_size / (shares * micro_batches))) * shares * micro_batches
        raise UsageError(
            f"batch_size {batch_size} (in {micro_batches} micro-batches) is not divisible by the mesh: "
            f"{' x '.join(axes)} = {' x '.join(str(mesh.shape[axis]) for axis in axes)} = {shares} devices share each batch; "
            f"set batch_size to {near}, or change the mesh"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is replicated on every device."""
    return NamedSharding(mesh, P())


def placement(mesh: Mesh) -> Placement:
    """The shardings of a feed's arrays on this mesh."""
    axes = batch_axes(mesh)
    return Placement(replicated(mesh), NamedSharding(mesh, P(axes)), NamedSharding(mesh, P(None, axes)))
