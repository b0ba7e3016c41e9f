"""The meshes that `jaxnets plan` tries: every way to divide the devices along the axes that a model has."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

from jaxnets.config.experiment import Experiment
from jaxnets.parallel.mesh import ORDER, MeshShape

MOST_TENSOR = 8
# Parts of sequences are at least so long: in shorter ones a turn of the ring has little to compute beside what it waits for.
SHORTEST = 1024
TRIED = tuple(axis for axis in ORDER if axis != "replica")


@dataclasses.dataclass(frozen=True)
class Axis:
    """What a model allows along an axis of the mesh."""

    sizes: tuple[int, ...] = (1,)
    why: str = ""
    """Why 1 is the only one, in words."""


def axes(experiment: Experiment, model: Any, length: int, devices: int) -> dict[str, Axis]:
    """What is tried along each axis.

    Args:
        experiment: what is trained.
        model: its model, bound to the data.
        length: positions of an example.
        devices: on how many.
    """
    divisors = [size for size in range(1, devices + 1) if devices % size == 0]

    def up_to(what: str, most: Any) -> Axis:
        """The sizes for which `most` has no objection."""
        fitting = tuple(size for size in divisors if size == 1 or not most(size))
        return Axis(fitting, "" if len(fitting) > 1 or devices == 1 else what)

    heads = getattr(model, "heads", 0)
    heads = heads if isinstance(heads, int) else 0
    experts: Any = getattr(model, "experts", None)
    found = {"data": Axis(tuple(divisors)), "fsdp": Axis(tuple(divisors))}
    found["tensor"] = up_to(
        f"{heads} heads" if heads else "the model has no heads",
        lambda size: not heads or heads % size or size > MOST_TENSOR,
    )
    if not getattr(experts, "count", 0):
        found["expert"] = Axis(why="the model has no experts")
    elif experts.routing != "capacity":
        found["expert"] = Axis(why="dropless tokens would be computed by all experts")
    else:
        found["expert"] = up_to(f"{experts.count} experts", lambda size: experts.count % size)
    if not getattr(model, "splits_sequence", False):
        found["sequence"] = Axis(why="the model sees whole sequences")
    else:
        _, keys, _ = model.attention_shape
        by_heads = model.split_attention == "heads"
        found["sequence"] = up_to(
            f"windows of {length:,} tokens, in parts of at least {SHORTEST:,}",
            lambda size: length % size or length // size < SHORTEST or (by_heads and keys % size),
        )
    found["pipeline"] = _pipeline(experiment, model, up_to)
    return found


def _pipeline(experiment: Experiment, model: Any, up_to: Any) -> Axis:
    if not getattr(model, "splits_layers", False) or type(model).__name__ in ("LoRA", "Layered"):
        return Axis(why="the layers of the model cannot be stages")
    if model.blocks != "scanned":
        return Axis(why="the blocks are unrolled, not scanned")
    if model.experts.count:
        return Axis(why="experts do not go together with it")
    if model.dropout:
        return Axis(why="dropout would be drawn otherwise")
    if experiment.local.active:
        return Axis(why="replicas that train apart do not go together with it")
    each = model.pipeline_rounds
    axis: Axis = up_to(f"{model.layers} layers", lambda size: model.layers % (size * each))
    return axis


def meshes(experiment: Experiment, devices: int, allowed: dict[str, Axis]) -> Iterator[tuple[MeshShape, int]]:
    """Every mesh over all devices, with every number of micro-batches that leaves each device whole rows.

    Where `fsdp` divides, ZeRO 3 and 1 are tried: the first takes the least memory, the second exchanges least. Stages of a
    pipeline and experts are divided already, and gain little by 1.
    """
    batch = experiment.batch_size
    chosen = [axis for axis in TRIED if axis != "data"]
    for sizes in itertools.product(*(allowed[axis].sizes for axis in chosen)):
        size: dict[str, Any] = dict(zip(chosen, sizes, strict=True))
        data, rest = divmod(devices, math.prod(sizes))
        shares = data * size["fsdp"] * size["expert"] * size["pipeline"]
        if rest or shares > batch or (size["pipeline"] > 1 and size["sequence"] > 1):
            continue
        for micro in range(1, batch // shares + 1):
            if batch % (micro * shares) == 0:
                yield MeshShape(data=data, **size), micro
                if size["fsdp"] > 1 and size["pipeline"] * size["expert"] == 1:
                    yield MeshShape(data=data, **size, zero=1), micro
