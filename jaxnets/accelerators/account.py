"""Memory of a training step by arithmetic, without a compiler: what must be on a device at the height of a step.

At the end of the forward pass a device holds its part of the state, the data that live there, and what the backward pass
needs of each layer; at the end of the backward pass the gradients are there in place of the latter. The compiler adds copies
and fuses operations, so its figure differs; `docs/scaling.md` has both for a dozen configurations.
"""

import dataclasses
import itertools
import math
from typing import Any

import jax

from jaxnets.accelerators.chips import Chip
from jaxnets.accelerators.saved import saved_bytes
from jaxnets.core.types import Batch
from jaxnets.data.feed import ResidentFeed
from jaxnets.ops.pipeline import bubble, parts_of
from jaxnets.parallel.mesh import MeshShape, batch_devices, make_mesh
from jaxnets.parallel.partition import HOST
from jaxnets.runs.build import Parts
from jaxnets.steps.sown import with_sown


@dataclasses.dataclass(frozen=True)
class Account:
    """Bytes on one device."""

    parameters: int
    optimizer: int
    """Moments, and whatever else the optimizer keeps."""
    other: int
    """Averages of weights, statistics of the model, counters."""
    data: int
    """The data set, where it lives on the devices, and the batches of a call."""
    gradients: int
    """Those of one micro-batch."""
    sums: int
    """Their sum over micro-batches, where there are several, and the parameters in the dtype of the layers."""
    gathered: int
    """Parameters that `fsdp` splits, whole for the layer that is computed and the next."""
    saved: int
    """What the backward pass of one micro-batch needs of the forward pass."""
    largest: int
    """The largest of these, whose gradient is there beside it."""
    host: int = 0
    """State that waits in the memory of the host (`mesh.offload`); not on the device."""

    @property
    def state(self) -> int:
        """What is there between two steps."""
        return self.parameters + self.optimizer + self.other

    @property
    def peak(self) -> int:
        """At the height of a step."""
        return self.state + self.data + self.sums + self.gathered + max(self.saved + self.largest, self.gradients)


def account(parts: Parts, chip: Chip, *, saved: tuple[int, int] | None = None) -> Account:
    """The account of a run's training step on one device of its mesh; nothing is compiled.

    `saved` is what `saved_of` gave, where it is known.
    """
    state = parts.abstract
    placed = parts.shardings
    parameters = held(state.params, placed.params)
    optimizer = held(state.opt_state, placed.opt_state)
    whole = held(state, placed)
    several = parts.experiment.micro_batch_count > 1
    narrow = jax.numpy.dtype(parts.experiment.precision.compute).itemsize < 4
    shares = batch_devices(parts.mesh) * parts.experiment.micro_batch_count
    kept, largest = saved_of(parts, chip, -(-parts.experiment.batch_size // shares)) if saved is None else saved
    if (stages := parts.mesh.shape.get("pipeline", 1)) > 1:
        # A stage has a share of the layers and sees the rows of all stages; it keeps results of idle turns as well.
        with jax.set_mesh(parts.mesh):
            count = parts_of(parts.batch_spec["mask"].shape[0] // parts.experiment.micro_batch_count)
        kept = round(kept / (1 - bubble(stages, count, parts.task.model.pipeline_rounds)))
    # About half of it is as wide as a hidden layer or belongs to a head, and is split with these.
    kept = round(kept * (1 + 1 / parts.mesh.shape["tensor"]) / 2)
    return Account(
        parameters=parameters,
        optimizer=optimizer,
        other=whole - parameters - optimizer,
        data=_data(parts),
        gradients=parameters,
        sums=several * parameters + narrow * parameters // 2,
        gathered=_gathered(parts),
        saved=kept,
        largest=largest,
        host=held(state, placed, on_host=True),
    )


def _gathered(parts: Parts) -> int:
    """Bytes of the two largest parameters that `fsdp` splits, whole and in the dtype of the layers."""
    width = jax.numpy.dtype(parts.experiment.precision.compute).itemsize
    layers = getattr(parts.task.model, "layers", 0)
    whole = []
    for (path, leaf), placed in zip(
        jax.tree_util.tree_leaves_with_path(parts.abstract.params), jax.tree.leaves(parts.shardings.params), strict=True
    ):
        if "fsdp" in placed.spec:
            once = layers if "'blocks'" in jax.tree_util.keystr(path) and leaf.shape[0] == layers else 1
            whole.append(leaf.size * width // once // parts.mesh.shape["tensor"])
    return sum(sorted(whole)[-2:])


def held(tree: Any, placed: Any, *, on_host: bool = False) -> int:
    """Bytes of a tree of shapes on one device, or of the leaves whose place is the memory of its host."""
    total = 0
    for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(placed), strict=True):
        if (sharding.memory_kind == HOST) == on_host:
            total += math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return total


def _data(parts: Parts) -> int:
    described = parts.feed.describe(parts.program.capacity)
    leaves = jax.tree.leaves(described[0] if isinstance(parts.feed, ResidentFeed) else described)
    return held(leaves, [leaf.sharding for leaf in leaves])


def saved_of(parts: Parts, chip: Chip, rows: int) -> tuple[int, int]:
    """Bytes that the backward pass of a micro-batch of some rows needs, on one device, and of the largest array of these.

    0 where several players have losses.
    """
    if parts.task.players:
        return 0, 0
    experiment = parts.experiment
    batch = {n: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype) for n, a in parts.batch_spec.items()}

    def saved(params: Any, model_state: Any, batch: Batch, key: Any) -> list[Any]:
        def total(params: Any) -> Any:
            cast = experiment.precision.cast({"params": parts.recipe.held(params), **model_state}, batch)
            mean, aux = with_sown(*parts.task.loss(*cast, key, True))
            return mean.sum, aux

        return jax.tree.leaves(jax.vjp(total, params, has_aux=True)[1])

    mesh = parts.mesh
    if mesh.shape.get("pipeline", 1) > 1:
        mesh = make_mesh(MeshShape(data=1), devices=[mesh.devices.flat[0]])
    with jax.set_mesh(mesh):
        key = jax.eval_shape(lambda: jax.random.key(0))
        traced = jax.make_jaxpr(saved)(parts.abstract.params, parts.abstract.model_state, batch, key).jaxpr
    return saved_bytes(traced, lambda array: size_on(chip, array))


def size_on(chip: Chip, array: Any) -> int:
    """Bytes of an array in a chip's memory; a TPU fills two of its dims up to tiles of 8 x 128 words."""
    shape, width = tuple(array.shape), array.dtype.itemsize
    count = math.prod(shape)
    if chip.platform != "tpu" or len(shape) < 2:
        return count * width
    rows = 8 * max(1, 4 // width)

    def padded(minor: int, second: int) -> int:
        filled = (-(-shape[minor] // 128) * 128) * (-(-shape[second] // rows) * rows)
        return count // (shape[minor] * shape[second]) * filled if count else 0

    # The compiler chooses the order of the dims.
    return min(padded(a, b) for a, b in itertools.permutations(range(len(shape)), 2)) * width
