"""`jaxnets shard`: where each leaf of a configuration's state goes on a mesh, whose devices need not be present."""

import dataclasses
import math
import os
from typing import Any


@dataclasses.dataclass(frozen=True)
class ShardOptions:
    """Options of `jaxnets shard`."""

    devices: int = 0
    """Number of devices of the mesh; 0: the product of its sizes, or the number of this machine's devices if one size is
    -1."""

    def __post_init__(self) -> None:
        if self.devices < 0:
            raise ValueError(f"devices is at least 1, or 0 to take the mesh's; got {self.devices}")


def run(loaded: Any, experiment: Any, options: ShardOptions) -> int:
    """Print a line for each leaf: path, shape, how it is split, bytes on each device, why; and the sums."""
    import jax

    from jaxnets.parallel.mesh import ORDER

    sizes = [getattr(experiment.mesh, axis) for axis in ORDER]
    count = options.devices or (0 if -1 in sizes else math.prod(sizes))
    if count:  # devices of the CPU stand for those of the mesh: nothing is computed on them
        os.environ["JAX_PLATFORMS"] = "cpu"
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    from jaxnets.checkpoints.digest import leaf_paths
    from jaxnets.cli.runs import print_table
    from jaxnets.parallel.partition import HOST, reason
    from jaxnets.runs.build import assemble
    from jaxnets.runs.micro_batches import undivided

    parts = assemble(undivided(experiment), experiment.data.outline())
    placed = leaf_paths(parts.shardings)
    rows, whole, each, on_host = [], 0, 0, 0
    for path, leaf in leaf_paths(parts.abstract).items():
        shape = placed[path].shard_shape(leaf.shape)
        there, here = (math.prod(s) * leaf.dtype.itemsize for s in (leaf.shape, shape))
        whole, each = whole + there, each + here
        split = ", ".join(str(axis or "-") for axis in placed[path].spec) or "-"
        if placed[path].memory_kind == HOST:
            split, on_host = f"{split} (on the host)", on_host + here
        rows.append(
            [path, _dims(leaf.shape), str(leaf.dtype), split, f"{here:,}", reason(path, leaf.shape, placed[path])]
        )
    print_table(["leaf", "shape", "dtype", "split over", "bytes a device", "because"], rows)
    mesh = ", ".join(f"{axis} {size}" for axis, size in parts.mesh.shape.items())
    print(
        f"{loaded.name} on {parts.mesh.devices.size} devices ({mesh}): the state has {whole:,} bytes, {each:,} on each device "
        f"({whole / max(1, each):.2f} times less). Activations and gradients are not in this."
    )
    if on_host:
        print(f"{on_host:,} of these bytes are in the memory of the device's host.")
    return 0


def _dims(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
