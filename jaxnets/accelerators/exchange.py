"""Exchanges of a training step by arithmetic: seconds that a device's links are busy at least, for each axis of a mesh.

By ring algorithms, which are optimal in bandwidth: of `n` devices each sends `(n - 1) / n` of what is gathered or scattered,
and twice that of what is summed. Latency is not counted.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax

from jaxnets.accelerators.account import width_of
from jaxnets.ops.pipeline import bubble, parts_in
from jaxnets.parallel.chips import Chip
from jaxnets.parallel.mesh import ORDER
from jaxnets.parallel.partition import STACKED, path_name
from jaxnets.runs.build import Parts

FLOAT32 = 4  # bytes of a parameter between steps, and of a sum over micro-batches
EXPERTS = re.compile(r"/mixture/(up|gate|down)_")


@dataclasses.dataclass(frozen=True)
class Work:
    """What the exchanges of a step depend on beside the mesh."""

    outside: int
    """Parameters outside of stacked blocks and of experts."""
    stacked: int
    """Parameters of stacked blocks, without those of experts."""
    experts: int
    """Parameters of experts."""
    rows: int
    """Examples of a batch."""
    length: int
    """Positions of an example."""
    layers: int
    width: int
    """Numbers of a position between two blocks."""
    places: int
    """Positions of an example that all experts of a layer compute; 0 without experts."""
    heads: tuple[int, int, int]
    """Query heads, key and value heads, numbers a head."""
    by_heads: bool
    """Whether split attention exchanges heads; else keys and values travel around a ring."""
    alone: bool
    """Whether a device applies stacked blocks to its own rows alone (`ops/own_rows.py`)."""
    rounds: int
    """How often a part of a batch goes around a pipeline."""
    bytes: int
    """Of a number in the layers."""

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.outside + self.stacked + self.experts


def work_of(parts: Parts) -> Work:
    """The work of a run's step."""
    count = {"outside": 0, "stacked": 0, "experts": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(parts.abstract.params):
        name = f"params/{path_name(path)}"
        count["experts" if EXPERTS.search(name) else "stacked" if STACKED.search(name) else "outside"] += leaf.size
    model, shape = parts.task.model, getattr(parts.batch_spec["inputs"], "shape", ())
    experts: Any = getattr(model, "experts", None)
    length = math.prod(shape[1:2])
    places = experts.count * experts.places(length) if getattr(experts, "count", 0) else 0
    return Work(
        **count,
        rows=parts.experiment.batch_size,
        length=length,
        layers=getattr(model, "layers", 1),
        width=getattr(model, "width", 1),
        places=places,
        heads=getattr(model, "attention_shape", (1, 1, 1)),
        by_heads=getattr(model, "split_attention", "") == "heads",
        alone=not places and not getattr(model, "dropout", 0),
        rounds=getattr(model, "pipeline_rounds", 1),
        bytes=width_of(parts),
    )


def waiting(work: Work, sizes: Mapping[str, int], micro_batches: int) -> float:
    """Share of the time that a stage of the pipeline has nothing to do."""
    return bubble(sizes.get("pipeline", 1), parts_in(work.rows // micro_batches, sizes), work.rounds)


def exchanges(
    work: Work, chip: Chip, sizes: Mapping[str, int], micro_batches: int, *, again: bool, zero: int = 3
) -> dict[str, float]:
    """Seconds of a step's exchanges, by axis.

    Args:
        work: of the step.
        chip: whose links.
        sizes: axis -> size of the mesh.
        micro_batches: parts of a batch.
        again: whether the backward pass computes blocks again.
        zero: 3: `fsdp` splits the parameters, 1: only what the optimizer keeps.
    """
    n = {axis: sizes.get(axis, 1) for axis in ORDER}
    tensor, stages, experts = n["tensor"], n["pipeline"], n["expert"]
    tokens = work.rows * work.length / math.prod(n[axis] for axis in ORDER if axis != "tensor")
    passes = 3 if again else 2  # forward and backward, and forward again
    activations = tokens * work.width * work.bytes  # of a device in a whole step, whatever the micro-batches
    links = _Links(chip, n)
    found = dict.fromkeys(ORDER, 0.0)

    # Gradients: each kind of parameters is summed over the devices that hold the same part of it, once a step; that of stacked
    # blocks for each micro-batch, where the sum is inside of the loop over them.
    held = {"outside": work.outside / tensor, "stacked": work.stacked / tensor / stages}
    held["experts"] = work.experts / tensor / experts / stages
    same = {"outside": ("pipeline", "data", "expert", "sequence"), "stacked": ("data", "expert", "sequence")}
    same["experts"] = ("data", "sequence")
    inside = work.stacked > 0 and stages == 1 and (n["sequence"] > 1 or not work.alone)
    sums = work.bytes if micro_batches == 1 else FLOAT32
    for kind, axes in same.items():
        times, width = (micro_batches, work.bytes) if inside and kind != "outside" else (1, sums)
        several = math.prod(n[axis] for axis in axes) > 1
        if (
            zero == 1
        ):  # A device has whole sums: of all axes in one exchange, or scattered. Updated parameters are gathered.
            found["data"] += links.ring((*axes, "fsdp"), 2 * times * held[kind] * width) if several else 0
            found["fsdp"] += links.ring(("fsdp",), held[kind] * (FLOAT32 + (0 if several else times * width)))
        else:
            found["data"] += links.ring(axes, 2 * times * held[kind] / n["fsdp"] * width)
    # Parameters are gathered forward and back, and gradients scattered, for each micro-batch, in a pipeline for each turn.
    turns = parts_in(work.rows // micro_batches, n) * work.rounds + stages - 1 if stages > 1 else 1
    often = {"outside": 1, "stacked": turns, "experts": turns}
    gathered = sum(held[kind] * often[kind] for kind in held)
    if zero == 3:
        found["fsdp"] = links.ring(("fsdp",), 3 * gathered * work.bytes * micro_batches)
    # Two sums of activations a layer, each way.
    found["tensor"] = links.ring(("tensor",), 2 * passes * 2 * work.layers * activations)
    # Tokens go to the experts and come back, each way.
    routed = activations / work.length * work.places
    found["expert"] = links.ring(("expert",), 2 * passes * work.layers * routed)
    query, key, numbers = work.heads
    if work.by_heads:
        moved = 2 * (query + key) * numbers * tokens * work.bytes / tensor
        found["sequence"] = links.ring(("sequence",), passes * work.layers * moved)
    elif n["sequence"] > 1:
        # All keys and values come by once in each pass; their gradients, in float32, travel with them in the backward pass.
        pair = 2 * key * numbers * tokens * n["sequence"] / tensor
        found["sequence"] = links.time(("sequence",), work.layers * pair * (passes * work.bytes + 4))
    if stages > 1:
        # A part goes to the next stage in every turn; at both ends the parts of all stages are gathered and divided.
        count = parts_in(work.rows // micro_batches, n)
        between = links.time(("pipeline",), 2 * turns * stages / count * activations)
        found["pipeline"] = between + links.ring(("pipeline",), 4 * stages * activations)
    return {axis: seconds for axis, seconds in found.items() if seconds}


@dataclasses.dataclass(frozen=True)
class _Links:
    """The links between devices along the axes of a mesh."""

    chip: Chip
    sizes: Mapping[str, int]

    def ring(self, axes: tuple[str, ...], sent: float) -> float:
        """Seconds for a ring of the devices along some axes, of which each sends its share of some bytes."""
        devices = math.prod(self.sizes[axis] for axis in axes)
        return self.time(axes, sent * (devices - 1) / devices)

    def time(self, axes: tuple[str, ...], sent: float) -> float:
        """Seconds to send some bytes to a device along these axes."""
        reach, inside = 0, 1
        for axis in reversed(ORDER):
            reach += (self.sizes[axis] - 1) * inside * (axis in axes)
            inside *= self.sizes[axis]
        return sent / (self.chip.link if reach < self.chip.group else self.chip.network)
