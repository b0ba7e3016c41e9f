"""The mesh, the micro-batches and the rematerialisation that suit a configuration on some accelerators.

Every way to divide the devices along the axes that the model has (`meshes.py`) is counted by arithmetic: its memory
(`account.py`), its work and its exchanges (`exchange.py`). The best of those that fit are compiled, and ranked by the floor of
their step.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnets.accelerators.account import (
    Account,
    Kept,
    Share,
    Traced,
    counted,
    data_of,
    kept_from,
    share_of,
    traced_of,
    width_of,
)
from jaxnets.accelerators.estimate import Estimate, estimate, prepare
from jaxnets.accelerators.exchange import Work, exchanges, waiting, work_of
from jaxnets.accelerators.meshes import TRIED, axes, meshes
from jaxnets.accelerators.tiles import size_on
from jaxnets.accelerators.topology import Topology
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.parallel.chips import Chip
from jaxnets.parallel.mesh import ALWAYS, ORDER, MeshShape
from jaxnets.parallel.partition import path_name, shardings
from jaxnets.runs.build import Parts
from jaxnets.runs.flops import step_flops

# A step that fits to the last byte does not: compilers add copies, and arithmetic is a tenth off.
FILL = 0.9
PRIMES = (251, 257, 263, 269, 271, 277, 281, 283, 293, 307)


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
    exchanged: Mapping[str, float]
    """Seconds of a step's exchanges at the peak of the links, by axis; sums of gradients are those of `data`."""
    waits: float = 0.0
    """Share of the time that a stage of a pipeline has nothing to do."""
    reason: str = ""
    """Why it is out of the question; "" where it is not."""
    compiled: Estimate | None = None

    @property
    def exchange(self) -> float:
        """Seconds of all exchanges."""
        return sum(self.exchanged.values())

    @property
    def seconds(self) -> float:
        """The floor of a step."""
        return self.compiled.step_seconds if self.compiled is not None else max(self.compute, self.exchange)

    @property
    def order(self) -> tuple[float, float, int]:
        """Sorts ways: the floor, then the work in all, then the simpler one."""
        size = sum(getattr(self.mesh, axis) > 1 for axis in TRIED if axis != "data")
        size += (self.micro_batches > 1) + (self.mesh.zero != 3)
        return round(self.seconds, 7), round(self.compute + self.exchange, 7), size

    def flags(self) -> str:
        """The flags of `jaxnets train` for it."""
        sizes = {axis: getattr(self.mesh, axis) for axis in (*ALWAYS, *(axis for axis in TRIED if axis not in ALWAYS))}
        said = [f"--mesh.{axis} {size}" for axis, size in sizes.items() if axis in ALWAYS or size > 1]
        said += [f"--mesh.zero {self.mesh.zero}"] if self.mesh.zero != 3 else []
        said.append(f"--micro-batches {self.micro_batches}")
        return " ".join(said + ([] if self.remat is None else [f"--task.model.remat {self.remat}"]))

    @property
    def name(self) -> str:
        """Its mesh in words: data 4 x fsdp 2, ZeRO 1."""
        said = [f"{axis} {getattr(self.mesh, axis)}" for axis in TRIED if getattr(self.mesh, axis) > 1]
        return (" x ".join(said) or "one device") + (f", ZeRO {self.mesh.zero}" if self.mesh.zero != 3 else "")

    def why(self, best: "Way") -> str:
        """Why it is not the best one, in words."""
        if self.reason:
            return self.reason
        most = max(self.exchanged, key=lambda axis: self.exchanged[axis], default="")
        if self.exchange > max(self.compute, 1.02 * best.seconds):
            return f"exchanges, mostly {most}"
        if self.compute > 1.02 * best.compute:
            return f"stages wait {self.waits:.0%} of the time" if self.waits else "it computes more again"
        return f"more exchanges, mostly {most}" if self.exchange > best.exchange else "no faster"

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


@dataclasses.dataclass(frozen=True)
class Others:
    """Why axes that the best way leaves at 1 are no part of it."""

    ways: Mapping[str, Way]
    """The best way with each axis that was tried."""
    untried: Mapping[str, str]
    """Why others were not tried."""


def others(ways: Sequence[Way], experiment: Experiment, topology: Topology) -> Others:
    """What a search says of the axes that its best way does not use.

    Args:
        ways: the result of `plan`.
        experiment: what was planned.
        topology: for which accelerators.
    """
    found: dict[str, Way] = {}
    unused = [axis for axis in TRIED if getattr(ways[0].mesh, axis) == 1]
    for axis in unused:
        using = [way for way in ways if getattr(way.mesh, axis) > 1]
        if using:
            # Of those that do not fit, the one that is nearest to it.
            found[axis] = min(using, key=lambda way: (bool(way.reason), way.account.peak if way.reason else way.order))
    length = math.prod(experiment.data.outline().card.input_shape[:1])
    allowed = axes(experiment, experiment.task.model, length, topology.count)
    return Others(found, {axis: allowed[axis].why for axis in unused if axis not in found and allowed[axis].why})


def _ways(experiment: Experiment, topology: Topology, devices: Sequence[Any]) -> Iterator[Way]:
    first = dataclasses.replace(experiment, mesh=MeshShape(data=1), micro_batches=1)
    # Shapes and work do not depend on the mesh, so one device is enough to count them.
    parts = prepare(first, devices[:1])
    work, data, chip = work_of(parts), data_of(parts), topology.chip
    allowed = axes(experiment, parts.task.model, work.length, topology.count)
    tried = list(meshes(experiment, topology.count, allowed))
    state = _Distinct.of(parts)
    shares = {mesh: state.share(mesh) for mesh, _ in tried}
    most = max(_rows(work, mesh, micro) for mesh, micro in tried)
    plain: _Counts | None = None
    for remat in _policies(parts.task.model):
        model = parts.task.model if remat is None else parts.task.model.clone(remat=remat)
        own = dataclasses.replace(parts, task=parts.task.with_model(model))
        counts = _Counts(own, chip, devices, {mesh.sequence for mesh, _ in tried}, most, plain)
        plain = plain or counts
        for mesh, micro in tried:
            sizes = _sizes(mesh)
            kept = counts.kept(_rows(work, mesh, micro), mesh.sequence, mesh.tensor)
            count = counted(own, sizes, micro, shares[mesh], kept, data)
            full = count.peak > FILL * chip.memory
            reason = f"it needs {count.peak / 2**30:,.1f} GiB" if full else ""
            waits = waiting(work, sizes, micro)
            # What is outside of the stages does not wait.
            longer = 1 + (1 / (1 - waits) - 1) * work.stacked / work.parameters
            compute = counts.flops(mesh.sequence) / topology.count / chip.flops * longer
            moved = exchanges(work, chip, sizes, micro, again=remat not in (None, "none"), zero=mesh.zero)
            yield Way(mesh, micro, remat, count, compute, moved, waits, reason)


def _policies(model: Any) -> list[str | None]:
    """The values of the model's field `remat` to try."""
    return ["none", "products", "products_with_weights", "blocks"] if hasattr(model, "remat") else [None]


def _sizes(mesh: MeshShape) -> dict[str, int]:
    return {axis: getattr(mesh, axis) for axis in ORDER if axis in ALWAYS or getattr(mesh, axis) > 1}


def _rows(work: Work, mesh: MeshShape, micro: int) -> int:
    """Examples of a micro-batch on one device."""
    return -(-work.rows // (mesh.data * mesh.fsdp * mesh.expert * mesh.pipeline * micro))


class _Counts:
    """What a step computes, and what its backward pass needs on a device, for any rows and devices that divide a sequence.

    It is traced once for whole sequences and once for divided ones, of which all devices together compute and keep the same
    whatever their number; with flash attention for each number, since a ring leaves out half of each device's own part alone.
    The rows in the trace are a multiple of a prime that divides no other dim, so that any number can
    take their place.
    """

    def __init__(
        self,
        parts: Parts,
        chip: Chip,
        devices: Sequence[Any],
        sequences: Iterable[int],
        rows: int,
        plain: "_Counts | None",
    ) -> None:
        """For the `sequences` asked and at most so many rows; `plain` computes nothing again."""
        self.parts, self.chip, self.rows = parts, chip, rows
        dims = {dim for leaf in jax.tree.leaves(parts.abstract.params) for dim in leaf.shape}
        dims |= {dim for leaf in jax.tree.leaves(parts.batch_spec) for dim in leaf.shape[1:]}
        self.mark = next(prime for prime in PRIMES if all(dim % prime for dim in dims))
        self.traced: dict[int, Traced] = {}
        self.work: dict[int, float] = {}
        self.found: dict[tuple[int, int, int], Kept] = {}
        for sequence in sorted(sequences):
            kind = self._kind(sequence)
            if kind not in self.traced:
                there = parts if sequence == 1 else dataclasses.replace(parts, mesh=_in_a_line(devices[:sequence]))
                stored = None if plain is None else plain.traced[kind].own
                self.traced[kind] = traced_of(there, self.mark * rows, plain=stored)
                # `products` computes no product again, but those of a ring.
                same = plain is not None and parts.task.model.remat == "products" and sequence == 1
                self.work[kind] = plain.work[1] if plain is not None and same else step_flops(there)

    def flops(self, sequence: int) -> float:
        """Of the whole batch, on all devices together."""
        return self.work[self._kind(sequence)]

    def _kind(self, sequence: int) -> int:
        """The same for numbers of devices whose trace is one."""
        return sequence if getattr(self.parts.task.model, "attention", "") == "flash" else min(sequence, 2)

    def kept(self, rows: int, sequence: int, tensor: int) -> Kept:
        """What a micro-batch of some rows on a device needs, of sequences, and of heads, that as many devices divide."""

        @functools.cache
        def size_of(shape: tuple[int, ...], dtype: Any) -> int:
            real = tuple(-(-dim // self.mark * rows // self.rows) if dim % self.mark == 0 else dim for dim in shape)
            return size_on(self.chip, jax.ShapeDtypeStruct(real, dtype))

        def size(array: Any) -> int:
            return size_of(tuple(array.shape), array.dtype)

        key = rows, sequence, tensor
        if key not in self.found:
            self.found[key] = kept_from(self.traced[self._kind(sequence)], self.parts, *key, size)
        return self.found[key]


def _in_a_line(devices: Sequence[Any]) -> Any:
    """A mesh that splits sequences over some devices; for tracing, so it does not matter where they are."""
    names = ("data", "fsdp", "sequence", "tensor")
    auto = (jax.sharding.AxisType.Auto,) * len(names)
    return jax.sharding.Mesh(np.asarray(devices).reshape(1, 1, -1, 1), names, axis_types=auto)


@dataclasses.dataclass(frozen=True)
class _Distinct:
    """The leaves of a state, of which those of equal blocks are counted once."""

    leaves: Mapping[str, Any]
    times: Mapping[str, int]
    width: int
    layers: int

    @classmethod
    def of(cls, parts: Parts) -> "_Distinct":
        """Those of a run."""
        leaves, times = dict[str, Any](), collections.Counter[str]()
        for path, leaf in jax.tree_util.tree_leaves_with_path(parts.abstract):
            name = re.sub(r"\bblock_\d+/", "block_0/", path_name(path))
            if name in leaves and (leaves[name].shape, leaves[name].dtype) != (leaf.shape, leaf.dtype):
                name = path_name(path)
            leaves.setdefault(name, leaf)
            times[name] += 1
        return cls(leaves, times, width_of(parts), getattr(parts.task.model, "layers", 1))

    def share(self, mesh: MeshShape) -> Share:
        """Bytes of the state on a device of a mesh."""
        sizes = _sizes(mesh)
        auto = (jax.sharding.AxisType.Auto,) * len(sizes)
        grid: Any = jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=auto)
        return share_of(
            self.leaves, shardings(self.leaves, grid, zero=mesh.zero), sizes, self.width, self.layers, self.times
        )
