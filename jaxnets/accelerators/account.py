"""Memory of a training step by arithmetic, without a compiler: what must be on a device at the height of a step.

At the end of the forward pass a device holds its part of the state, the data that live there, and what the backward pass
needs of each layer; at the end of the backward pass the gradients are there in place of the latter. The compiler adds copies
and fuses operations, so its figure differs; `docs/scaling.md` has both for a dozen configurations.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxnets.accelerators.cuts import cuts_of
from jaxnets.accelerators.saved import Saved
from jaxnets.accelerators.tiles import size_on
from jaxnets.core.types import Batch
from jaxnets.data.feed import ResidentFeed
from jaxnets.ops.attention_blocks import BLOCK
from jaxnets.ops.pipeline import bubble, parts_in
from jaxnets.parallel.chips import Chip
from jaxnets.parallel.mesh import MeshShape, batch_devices, make_mesh
from jaxnets.parallel.partition import HOST, path_name
from jaxnets.runs.build import Parts
from jaxnets.steps.sown import with_sown

BLOCK_PATH = re.compile(r"/(?:block_\d+|blocks)/")


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
    again: int = 0
    """What the backward pass of one block computes again, its operands and gradients, and scores that are not stored."""
    counted: int = 0
    """What of `saved` is the largest's; it may be kept in a narrower dtype than its gradient has."""
    of_block: int = 0
    """Of `gathered`, in the backward pass of a block: the two largest parameters of a block."""
    host: int = 0
    """State that waits in the memory of the host (`mesh.offload`); not on the device."""

    @property
    def state(self) -> int:
        """What is there between two steps."""
        return self.parameters + self.optimizer + self.other

    @property
    def peak(self) -> int:
        """At the height of a step: after the forward pass, in the backward pass of a block when the largest is gone, or
        after it."""
        heights = (
            self.gathered + self.saved + self.largest,
            self.of_block + self.saved - self.counted + self.again,
            self.gathered + self.gradients,
        )
        return self.state + self.data + self.sums + max(heights)


@dataclasses.dataclass(frozen=True)
class Share:
    """Bytes of a state on one device of a mesh."""

    parameters: int = 0
    optimizer: int = 0
    other: int = 0
    host: int = 0
    """In the memory of its host."""
    gathered: int = 0
    """Of the two largest parameters that `fsdp` splits, whole for one layer and in the dtype of the layers."""
    of_block: int = 0
    """The same of those of blocks."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """Bytes on one device that the backward pass of a micro-batch needs."""

    saved: float = 0
    largest: float = 0
    again: float = 0
    counted: float = 0


def account(parts: Parts, chip: Chip) -> Account:
    """The account of a run's training step on one device of its mesh; nothing is compiled."""
    sizes = {axis: int(size) for axis, size in parts.mesh.shape.items()}
    experiment = parts.experiment
    rows = -(-experiment.batch_size // (batch_devices(parts.mesh) * experiment.micro_batch_count))
    share = share_of(parts.abstract, parts.shardings, sizes, width_of(parts), getattr(parts.task.model, "layers", 1))
    return counted(parts, sizes, experiment.micro_batch_count, share, kept_of(parts, chip, rows), data_of(parts))


def counted(parts: Parts, sizes: Mapping[str, int], micro_batches: int, share: Share, kept: Kept, data: int) -> Account:
    """The account on a mesh of these sizes, from its three parts.

    Args:
        parts: the run; its mesh does not count.
        sizes: axis -> size.
        micro_batches: parts of a batch.
        share: of the state.
        kept: by `kept_of`, for the rows of a device and these sizes.
        data: bytes of the data on a device.
    """
    saved, again = kept.saved, kept.again
    rows = -(-parts.experiment.batch_size // micro_batches)
    if (stages := sizes.get("pipeline", 1)) > 1:
        # A stage has a share of the layers and sees the rows of all stages; it keeps results of idle turns as well.
        count = parts_in(rows, sizes)
        saved /= 1 - bubble(stages, count, parts.task.model.pipeline_rounds)
        again = again * stages / count
    narrow = width_of(parts) < 4
    return Account(
        parameters=share.parameters,
        optimizer=share.optimizer,
        other=share.other,
        data=data,
        gradients=share.parameters,
        sums=(micro_batches > 1) * share.parameters + narrow * share.parameters // 2,
        gathered=share.gathered,
        saved=round(saved),
        largest=round(kept.largest),
        again=round(again),
        counted=round(kept.counted),
        of_block=share.of_block,
        host=share.host,
    )


def width_of(parts: Parts) -> int:
    """Bytes of a number in the layers."""
    return int(jax.numpy.dtype(parts.experiment.precision.compute).itemsize)


def share_of(
    state: Any, placed: Any, sizes: Mapping[str, int], width: int, layers: int, times: Mapping[str, int] | None = None
) -> Share:
    """The share of one device.

    Args:
        state: a tree of shapes whose paths are those of a state.
        placed: the same tree of shardings.
        sizes: axis -> size of the mesh.
        width: bytes of a number in the layers.
        layers: of the model; parameters of all of them may be one array.
        times: path -> how many equal leaves it stands for; 1 where it is not named.
    """
    total, whole = {"params": 0, "opt_state": 0, "": 0, HOST: 0}, list[tuple[int, bool]]()
    for (path, leaf), sharding in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(placed), strict=True):
        name = path_name(path)
        root = name.split("/", 1)[0]
        cuts = {axis: sizes[axis] for axis in jax.tree.leaves(tuple(sharding.spec))}
        size = leaf.size * leaf.dtype.itemsize // math.prod(cuts.values()) * (times or {}).get(name, 1)
        total[HOST if sharding.memory_kind == HOST else root if root in total else ""] += size
        if root == "params" and "fsdp" in cuts:
            once = layers if "/blocks/" in name and leaf.shape[0] == layers else 1
            others = math.prod(size for axis, size in cuts.items() if axis not in ("fsdp", "pipeline"))
            whole.append((leaf.size * width // once // others, bool(BLOCK_PATH.search(name))))
    every, blocks = (sum(sorted(size for size, inside in whole if inside >= least)[-2:]) for least in (False, True))
    return Share(total["params"], total["opt_state"], total[""], total[HOST], every, blocks)


def data_of(parts: Parts) -> int:
    """Bytes of the data set, where it lives on the devices, and of the batches of a call."""
    described = parts.feed.describe(parts.program.capacity)
    leaves = jax.tree.leaves(described[0] if isinstance(parts.feed, ResidentFeed) else described)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


@dataclasses.dataclass(frozen=True)
class Traced:
    """What `jax.vjp` saves of a micro-batch, as it is and where nothing is computed again."""

    own: Saved | None
    """None where several players have losses."""
    plain: Saved | None
    """None where nothing is computed again, or in parts of unknown number."""


def kept_of(parts: Parts, chip: Chip, rows: int) -> Kept:
    """What the backward pass of a micro-batch with some rows on a device needs, on the mesh of the parts."""
    sequence, tensor = (int(parts.mesh.shape.get(axis, 1)) for axis in ("sequence", "tensor"))
    return kept_from(traced_of(parts, rows), parts, rows, sequence, tensor, lambda array: size_on(chip, array))


def kept_from(traced: Traced, parts: Parts, rows: int, sequence: int, tensor: int, size: Callable[[Any], int]) -> Kept:
    """The same from a trace.

    Args:
        traced: by `traced_of`.
        parts: of the run.
        rows: on a device.
        sequence: devices that divide each sequence.
        tensor: devices that divide heads, hidden units and the vocabulary.
        size: bytes of an array of the trace.
    """
    model, again = parts.task.model, 0.0
    if traced.own is None:
        return Kept()
    saved, largest, counted = traced.own.bytes(size, split=tensor)
    inside = _of_attention(parts, rows, sequence)
    if traced.plain is not None:
        blocks = model.layers + (getattr(model, "decoder_layers", 0) or 0)
        again = max(0, traced.plain.bytes(size, stacked=False, split=tensor)[0] - saved) / blocks
        # Experts get the tokens of whole sequences. (The rest of such a block is counted whole, too.)
        again /= 1 if _has_experts(model) else sequence
        inside += of_block(parts, rows, sequence)
    return Kept(saved / sequence, largest / sequence, again + inside / tensor, counted / sequence)


def of_block(parts: Parts, rows: int, sequence: int) -> float:
    """Bytes that the backward pass of a block which is computed again needs beside what it would have stored.

    Plain attention's weights in the layers' dtype, an operand of two products, are there beside its scores in float32. The
    operation that differentiates the MLP's activation reads the gradient of the hidden units, and writes them and the gradient
    of what the activation takes, of two arrays in a gated MLP.
    """
    model: Any = parts.task.model
    if not hasattr(model, "attention_shape"):
        return 0.0
    length, heads = parts.batch_spec["inputs"].shape[1], model.attention_shape[0]
    plain = sequence == 1 and model.attention == "plain"
    scores = heads * length**2 if plain else 0
    places = model.experts.count * model.experts.places(length) if _has_experts(model) else length / sequence
    arrays = 2 + (2 if model.mlp.endswith("glu") else 1)
    hidden = arrays * places * (model.mlp_dim or 4 * model.width)
    return float(rows * (scores + hidden) * width_of(parts))


def _has_experts(model: Any) -> bool:
    return bool(getattr(getattr(model, "experts", None), "count", 0))


def _of_attention(parts: Parts, rows: int, sequence: int) -> float:
    """Bytes that one call of attention needs while it runs, where its scores are not stored."""
    model = parts.task.model
    flash, ring = getattr(model, "attention", "") == "flash", getattr(model, "split_attention", "") == "ring"
    if not (flash or (sequence > 1 and ring)) or not hasattr(model, "attention_shape"):
        return 0.0
    length, (heads, key_heads, numbers) = _positions(parts), model.attention_shape
    # By `heads` a device has the whole length of some heads.
    part, share = (length // sequence, 1) if ring else (length, sequence)
    suits = not (part % 128 or numbers % 64) and getattr(model, "positions", "") != "alibi"
    kernels = parts.mesh.devices.flat[0].platform == "tpu" and suits
    if flash and kernels:  # the log-sum-exps, of which a kernel writes each 128 times
        return rows * heads / share * part * 128 * 4
    block = min(BLOCK, part) if flash else part
    # Two arrays of scores in float32 and two in the layers' dtype, of the queries of a block and its keys, and the sums.
    sums = rows * part * (heads + 2 * key_heads) * numbers * 4 if flash else 0
    return float(rows * heads / share * block**2 * (8 + 2 * width_of(parts)) + sums / share)


def _positions(parts: Parts) -> int:
    """Of the longest sequence that attention sees: tokens of inputs or targets, or patches, and a class token."""
    model, shape = parts.task.model, parts.batch_spec["inputs"].shape
    tokens = [array.shape[1] for array in parts.batch_spec.values() if len(array.shape) == 2]
    length = shape[1] * shape[2] // model.patch**2 if hasattr(model, "patch") else max(tokens)
    return int(length) + (getattr(model, "pool", "") == "token")


def traced_of(parts: Parts, rows: int, *, plain: Saved | None = None) -> Traced:
    """Trace a micro-batch of some rows, on the mesh of the parts; `plain` is where nothing is computed again, if known."""
    model = parts.task.model
    if parts.task.players:
        return Traced(None, None)
    if getattr(model, "remat", "none") == "none" or not hasattr(model, "layers"):
        return Traced(_trace(parts, rows), None)
    storing = dataclasses.replace(parts, task=parts.task.with_model(model.clone(remat="none")))
    return Traced(_trace(parts, rows), _trace(storing, rows) if plain is None else plain)


def _trace(parts: Parts, rows: int) -> Saved:
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
        params = parts.abstract.params
        jaxpr = jax.make_jaxpr(saved)(params, parts.abstract.model_state, batch, key).jaxpr
        return Saved(jaxpr, cuts_of(params))
