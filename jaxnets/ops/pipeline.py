"""A pipeline: consecutive layers on different devices, along the mesh axis `pipeline` (Huang et al. 2019).

Every device holds one stage, some of the layers. A batch is divided into parts, which travel from stage to stage, so that the
stages work on different parts at the same time. While the pipeline fills and empties, stages are idle: this share of the time
is the bubble, `(S - 1) / (M R + S - 1)` for `S` stages, `M` parts and `R` rounds.

With more than one round each device holds `R` smaller stages, and a part goes around the devices `R` times (circular, or
interleaved, Narayanan et al. 2021). The bubble is smaller, but parameters that are stored in order of the layers have to move
to the devices that use them, every step.

The backward pass is the derivative of this program: the same pipeline in reverse order, with the same bubble.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

from jaxnets.ops.axes import AXES, axis_size
from jaxnets.ops.own_rows import summed_wide

AXIS = "pipeline"
# Parts that each device's share of a batch is divided into, if the rows allow it: with 4 stages the bubble is then 16 %.
MOST_PARTS = 4


def stages() -> int:
    """Stages of the pipeline; 1 outside of a mesh and on a mesh without a pipeline."""
    return axis_size(AXIS)


def bubble(stages: int, parts: int, rounds: int = 1) -> float:
    """Share of the time that a stage is idle, in [0, 1)."""
    return (stages - 1) / (parts * rounds + stages - 1)


def parts_in(rows: int, sizes: Mapping[str, int]) -> int:
    """Parts that a batch of `rows` is divided into on a mesh with these sizes: as many for each stage as divide its share, up
    to `MOST_PARTS`."""
    each = rows // math.prod(sizes.get(axis, 1) for axis in AXES["batch"] or ())
    return sizes.get(AXIS, 1) * next((n for n in range(min(MOST_PARTS, each), 0, -1) if each % n == 0), 1)


def pipelined(
    run: Callable[[Any, Array, Any, Array], Array], params: Any, x: Array, extras: Any = (), *, rounds: int = 1
) -> Array:
    """The result of consecutive layers, each stage of them on its own device.

    Args:
        run: `(params, x, extras, first)` applies some consecutive layers: parameters `[n, ...]`, activations `[b, ...]`,
            extras `[b, ...]`, and the number of the first layer. It returns activations of the shape of `x`.
        params: a tree of arrays `[L, ...]`, one row for each layer.
        x: activations `[B, ...]`.
        extras: a tree of arrays `[B, ...]` that every layer reads, such as masks.
        rounds: how often a part goes around the devices.

    Returns:
        `[B, ...]`, as `x`.

    Raises:
        ValueError: the stages do not divide the layers or the batch.
    """
    devices, layers, rows = stages(), jax.tree.leaves(params)[0].shape[0], x.shape[0]
    if layers % (devices * rounds):
        raise ValueError(
            f"a pipeline of {devices} stages in {rounds} rounds needs layers that {devices * rounds} divides, got {layers}; "
            f"change mesh.pipeline or the layers"
        )
    if rows % devices:
        raise ValueError(f"a pipeline of {devices} stages needs a batch that {devices} divides, got {rows} rows")
    each = layers // (devices * rounds)
    per_stage = parts_in(rows, {axis: axis_size(axis) for axis in AXES["batch"] or ()}) // devices
    stacked, narrow = summed_wide(jax.tree.map(lambda a: a.reshape(rounds, devices, each, *a.shape[1:]), params))
    x, as_it_was = summed_wide(x)

    def local(params: Any, number: Array, x: Array, extras: Any) -> Array:
        mine = jax.tree.map(lambda a: a[:, 0], narrow(params))
        parts, own = jax.tree.map(lambda a: _every_part(a, per_stage), (x, extras))
        return _travel(run, mine, number[0], as_it_was(parts), own, each)

    # Also along the axes that only split the batch, every device works on its own: gradients of the parameters are summed
    # over them once, after the last turn.
    own = tuple(axis for axis in (AXIS, "replica", "data") if axis_size(axis) > 1)
    row = P(own)
    program = jax.shard_map(
        local, in_specs=(P(None, AXIS), P(AXIS), row, row), out_specs=row, axis_names={*own}, check_vma=False
    )
    # Under `jit` also where the caller is not: a part of the mesh's axes is left to the compiler, which eager code has not.
    return jax.jit(program)(stacked, jnp.arange(devices), x, extras)


def _every_part(a: Array, per_stage: int) -> Array:
    """This device's rows `[B / S, ...]` to the parts of all devices `[S * per_stage, b, ...]`.

    The parts of a device take every `per_stage`-th row, so other axes that split the batch split every part.
    """
    mine = jnp.moveaxis(a.reshape(a.shape[0] // per_stage, per_stage, *a.shape[1:]), 1, 0)
    every = jax.lax.all_gather(mine, AXIS)
    return every.reshape(-1, *mine.shape[1:])


def _travel(
    run: Callable[[Any, Array, Any, Array], Array], params: Any, me: Array, parts: Array, extras: Any, each: int
) -> Array:
    """Move the parts `[M, b, ...]` through the stages; this device's share of the results, `[M b / S, ...]`.

    In turn `t` stage `s` works on item `t - s`; item `i` is part `i % M` in round `i // M`. What leaves the last stage goes
    to the first one and takes the place of the part that it came from.
    """
    devices, count = stages(), parts.shape[0]
    rounds = jax.tree.leaves(params)[0].shape[0]
    order = [(device, (device + 1) % devices) for device in range(devices)]

    def turn(carry: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], None]:
        parts, arrived = carry
        returned = t - devices  # the item that the last stage finished in the turn before
        slot = returned % count
        old = jax.lax.dynamic_index_in_dim(parts, slot, keepdims=False)
        parts = jax.lax.dynamic_update_index_in_dim(parts, jnp.where(returned >= 0, arrived, old), slot, 0)
        item = jnp.clip(t - me, 0, count * rounds - 1)
        part, lap = item % count, item // count
        entering = jax.lax.dynamic_index_in_dim(parts, part, keepdims=False)
        x = jnp.where(me == 0, entering, arrived)
        own = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, part, keepdims=False), extras)
        layers = jax.tree.map(lambda a: a[0] if rounds == 1 else a[lap], params)
        y = run(layers, x, own, (lap * devices + me) * each)
        return (parts, jax.lax.ppermute(y, AXIS, order)), None

    turns = count * rounds + devices - 1
    (parts, arrived), _ = jax.lax.scan(turn, (parts, jnp.zeros_like(parts[0])), jnp.arange(turns))
    parts = parts.at[(turns - devices) % count].set(arrived)
    # The results are complete on the first device only; each takes its share.
    whole, narrow = summed_wide(jnp.where(me == 0, parts, 0).reshape(devices, -1, *parts.shape[1:]))
    mine = narrow(jax.lax.psum_scatter(whole, AXIS, scatter_dimension=0))
    mine = jnp.moveaxis(mine, 0, 1)
    return mine.reshape(-1, *mine.shape[2:])
