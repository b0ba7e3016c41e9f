"""The mesh, the micro-batches and the rematerialisation that suit a configuration on some accelerators.

Every way to divide the devices is counted by arithmetic. The best of those that fit are compiled, and ranked by the floor of
their step. The arithmetic of exchanges is that of ring algorithms: gradients are reduced once, parameters that `fsdp` splits
are gathered for the forward and the backward pass of each micro-batch, and layers that `tensor` splits are reduced twice each
way.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxnets.accelerators.account import Account, account, saved_of
from jaxnets.accelerators.estimate import Estimate, estimate, flops_of_step, prepare
from jaxnets.accelerators.topology import Topology
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.parallel.mesh import MeshShape, batch_devices
from jaxnets.parallel.partition import shardings
from jaxnets.runs.build import Parts

# A step that fits to the last byte does not: compilers add copies, and arithmetic is a tenth off.
FILL = 0.9
MOST_TENSOR = 8


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to run a configuration, by arithmetic."""

    mesh: MeshShape
    micro_batches: int
    remat: str | None
    """The model's field `remat`; None where it has none."""
    account: Account
    compute: float
    """Seconds of a step at the peak of the cores."""
    exchange: float
    """Seconds of a step's exchanges at the peak of the links."""
    reason: str = ""
    """Why it is out of the question; "" where it is not."""
    compiled: Estimate | None = None

    @property
    def seconds(self) -> float:
        """The floor of a step."""
        return self.compiled.step_seconds if self.compiled is not None else max(self.compute, self.exchange)

    @property
    def order(self) -> tuple[float, float, int]:
        """Sorts ways: the floor, then the work in all, then the simpler one."""
        size = (self.mesh.fsdp > 1) + (self.mesh.tensor > 1) + (self.micro_batches > 1)
        return round(self.seconds, 7), round(self.compute + self.exchange, 7), size

    def flags(self) -> str:
        """The flags of `jaxnets train` for it."""
        said = [f"--mesh.{axis} {getattr(self.mesh, axis)}" for axis in ("data", "fsdp", "tensor")]
        said.append(f"--micro-batches {self.micro_batches}")
        return " ".join(said + ([] if self.remat is None else [f"--task.model.remat {self.remat}"]))

    def applied(self, experiment: Experiment) -> Experiment:
        """The experiment that runs this way."""
        task: Any = experiment.task
        if self.remat is not None:
            task = dataclasses.replace(task, model=task.model.clone(remat=self.remat))
        return dataclasses.replace(experiment, mesh=self.mesh, micro_batches=self.micro_batches, task=task)


def plan(experiment: Experiment, topology: Topology, devices: Sequence[Any], *, compile: int = 3) -> list[Way]:
    """Every way, the best first; the `compile` best of those that fit by arithmetic are compiled.

    Raises:
        UsageError: no way fits.
    """
    ways = sorted(_ways(experiment, topology, devices), key=lambda way: (bool(way.reason), way.order))
    fitting = [way for way in ways if not way.reason]
    if not fitting:
        least = min(ways, key=lambda way: way.account.peak)
        raise UsageError(
            f"no way to run it on {topology.name} fits: the smallest needs {least.account.peak / 2**30:,.1f} GiB of the "
            f"{topology.chip.memory / 2**30:,.0f} of each device ({least.flags()}); take more devices or a smaller batch"
        )
    tried: list[Way] = []
    for way in fitting:
        if len([one for one in tried if not one.reason]) == compile:
            break
        found = estimate(prepare(way.applied(experiment), devices), topology)
        reason = "" if found.fits else f"compiled, it needs {found.peak / 2**30:,.1f} GiB"
        tried.append(dataclasses.replace(way, compiled=found, reason=reason))
    rest = [way for way in ways if not any(one.flags() == way.flags() for one in tried)]
    return sorted(tried, key=lambda way: (bool(way.reason), way.order)) + rest


def _ways(experiment: Experiment, topology: Topology, devices: Sequence[Any]) -> Iterator[Way]:
    model = experiment.task.model
    for remat in _policies(model):
        way = Way(MeshShape(data=1), 1, remat, _NOTHING, 0.0, 0.0)
        # Shapes and work do not depend on the mesh, so one device is enough to count them.
        parts = prepare(dataclasses.replace(way.applied(experiment), micro_batches=1), devices[:1])
        work, _ = flops_of_step(parts)
        saved: dict[int, tuple[int, int]] = {}
        for mesh, micro in _meshes(experiment, topology, model):
            grid = _grid(mesh)
            placed = shardings(parts.abstract, grid, zero=3)
            rows = -(-experiment.batch_size // (mesh.data * mesh.fsdp * micro))
            if rows not in saved:
                saved[rows] = saved_of(parts, topology.chip, rows)
            there = dataclasses.replace(
                parts, mesh=grid, shardings=placed, experiment=dataclasses.replace(experiment, micro_batches=micro)
            )
            count = account(there, topology.chip, saved=saved[rows])
            full = count.peak > FILL * topology.chip.memory
            reason = f"it needs {count.peak / 2**30:,.1f} GiB" if full else ""
            compute = work / topology.count / topology.chip.flops
            exchange = _exchange(there, topology, mesh, micro, remat)
            yield Way(mesh, micro, remat, count, compute, exchange, reason)


def _policies(model: Any) -> list[str | None]:
    """The values of the model's field `remat` to try."""
    return ["none", "products", "products_with_weights", "blocks"] if hasattr(model, "remat") else [None]


def _meshes(experiment: Experiment, topology: Topology, model: Any) -> Iterator[tuple[MeshShape, int]]:
    """Every mesh over all devices, with every number of micro-batches that leaves each device whole rows."""
    heads = getattr(model, "heads", 0)
    for tensor, fsdp in itertools.product(_divisors(topology.count), repeat=2):
        data, rest = divmod(topology.count, tensor * fsdp)
        splits = tensor == 1 or (isinstance(heads, int) and heads and heads % tensor == 0 and tensor <= MOST_TENSOR)
        if rest or not splits or data * fsdp > experiment.batch_size:
            continue
        for micro in _divisors(experiment.batch_size):
            if experiment.batch_size % (micro * data * fsdp) == 0:
                yield MeshShape(data=data, fsdp=fsdp, tensor=tensor), micro


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _grid(mesh: MeshShape) -> Any:
    sizes = (mesh.data, mesh.fsdp, mesh.tensor)
    auto = (jax.sharding.AxisType.Auto,) * 3
    return jax.sharding.AbstractMesh(sizes, ("data", "fsdp", "tensor"), axis_types=auto)


def _exchange(parts: Parts, topology: Topology, mesh: MeshShape, micro: int, remat: str | None) -> float:
    """Seconds that a device's exchanges of one step take at least."""
    chip = topology.chip
    width = jax.numpy.dtype(parts.experiment.precision.compute).itemsize
    bytes_ = parts.parameters * width / mesh.tensor

    def seconds(sent: float, size: int, inside: int) -> float:
        """For a ring of `size` devices that are `inside` apart in the order of the mesh."""
        rate = chip.link if (size - 1) * inside < chip.group else chip.network
        return sent * (size - 1) / size / rate

    total = seconds(2 * bytes_ / mesh.fsdp, mesh.data, mesh.fsdp * mesh.tensor)
    total += seconds(3 * bytes_ * micro, mesh.fsdp, mesh.tensor)
    model, inputs = parts.task.model, parts.batch_spec["inputs"]
    if mesh.tensor > 1:
        tokens = math.prod(inputs.shape[:2]) / batch_devices(parts.mesh)
        times = (6 if remat not in (None, "none") else 4) * getattr(model, "layers", 1)
        total += seconds(times * tokens * getattr(model, "width", 1) * width * 2, mesh.tensor, 1)
    return total


_NOTHING = Account(0, 0, 0, 0, 0, 0, 0, 0, 0)
