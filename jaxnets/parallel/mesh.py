"""The mesh: a grid of devices with named axes.

`data` replicates the parameters and splits the batch; `fsdp` splits both; `tensor` splits layers. An axis of size 1 costs
nothing, so every run has all three axes, and one device uses the same code as many.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets.core.errors import UsageError, note
from jaxnets.core.types import Placement
from jaxnets.ops.axes import AXES


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Sizes of the mesh axes; -1 (at most once) takes the remaining devices."""

    data: int = -1
    """Number of copies of the parameters, each with a share of the batch."""
    fsdp: int = 1
    """Number of shards of the parameters and optimizer state; each also takes a share of the batch."""
    tensor: int = 1
    """Number of shards of the layers, by the partition rules."""

    def sizes(self, devices: int) -> tuple[int, int, int]:
        """The three sizes for a number of devices; raises `UsageError` if that is too few, or no multiple where one is -1."""
        sizes = [self.data, self.fsdp, self.tensor]
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise UsageError(f"mesh sizes are at least 1, or -1 (once) for the rest of the devices; got {self}")
        given = math.prod(size for size in sizes if size != -1)
        if -1 in sizes and devices % given == 0:
            sizes[sizes.index(-1)] = devices // given
        elif -1 in sizes or given > devices:
            raise UsageError(
                f"mesh data={self.data}, fsdp={self.fsdp}, tensor={self.tensor} needs "
                f"{'a multiple of ' if -1 in sizes else ''}{given} devices, but there are {devices}; "
                f"change the sizes, or set one of them to -1"
            )
        return sizes[0], sizes[1], sizes[2]


def make_mesh(shape: MeshShape | None = None, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (by default all); enter it with `jax.set_mesh(mesh)`.

    A shape of fewer devices takes the first ones, with a note; over several processes it is refused, since each takes part.
    """
    devices = jax.devices() if devices is None else devices
    sizes = (shape or MeshShape()).sizes(len(devices))
    count = math.prod(sizes)
    if count < len(devices):
        if jax.process_count() > 1:
            raise UsageError(
                f"the mesh has {count} devices, but the processes have {len(devices)}; every process takes part, so set one "
                f"size to -1, or start fewer processes"
            )
        note(f"the mesh has {count} devices; {len(devices) - count} of {len(devices)} are not used")
        devices = devices[:count]
    # The default of JAX is Explicit axes, under which Linen layers raise.
    return jax.make_mesh(sizes, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices)


def batch_devices(mesh: Mesh) -> int:
    """The number of shares that a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in AXES["batch"] or ())


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
    shares = batch_devices(mesh)
    if micro_batches < 1 or batch_size % micro_batches:
        raise UsageError(
            f"batch_size {batch_size} is not divisible into {micro_batches} micro-batches; "
            f"choose a batch_size that is a multiple of micro_batches"
        )
    if batch_size // micro_batches % shares:
        near = max(1, round(batch_size / (shares * micro_batches))) * shares * micro_batches
        raise UsageError(
            f"batch_size {batch_size} (in {micro_batches} micro-batches) is not divisible by the mesh: data x fsdp = "
            f"{mesh.shape['data']} x {mesh.shape['fsdp']} = {shares} devices share each batch; set batch_size to "
            f"{near}, or change the mesh"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is replicated on every device."""
    return NamedSharding(mesh, P())


def placement(mesh: Mesh) -> Placement:
    """The shardings of a feed's arrays on this mesh."""
    axes = AXES["batch"]
    return Placement(replicated(mesh), NamedSharding(mesh, P(axes)), NamedSharding(mesh, P(None, axes)))
