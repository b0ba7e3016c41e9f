"""Local SGD with an outer optimizer: copies of the model train separately and are averaged at intervals (DiLoCo).

Each of `R` replicas takes its share of every batch and its own steps. Every `H` steps the replicas' mean change since the last
exchange is given to an outer optimizer as a gradient, and all replicas continue from the new weights (Douillard et al. 2023,
arXiv:2311.08105, algorithm 1). Gradients do not leave a replica, so a slow network between them is used once in `H` steps, and
an exchange in int8 sends a quarter of the bytes. With plain SGD inside, `every=1`, an outer rate of 1 and no outer momentum it
is training with data parallelism.

`state.params` are the weights after the last exchange. Evaluation and checkpoints use them. The replicas are in the optimizer
state, with a leading dim `R` that the mesh axis `replica` divides. Without that axis they are trained side by side on the same
devices, with the same result.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

from jaxnets.core.types import Aux, Batch, Mean, Variables
from jaxnets.ops.axes import AXES, apart_along, axis_size
from jaxnets.optim.local_sgd import LocalSGD
from jaxnets.steps.recipe import TAKEN, Metrics, Recipe, Step
from jaxnets.steps.state import TrainState
from jaxnets.steps.step import with_average

AXIS = "replica"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LocalState:
    """The optimizer state of a run with replicas."""

    replicas: dict[str, Any]
    """Of each replica: `params`, `model_state`, `opt_state` and `guard`, as in `TrainState`, and `taken`, its updates since
    the last exchange; all with a leading dim `R`."""
    momentum: Any
    """Of the outer optimizer, as the parameters."""


class _Task(Protocol):
    """The part of a task that a step needs."""

    @property
    def players(self) -> Sequence[str]:
        """Names of parts with a loss each; () where there is one loss."""

    def make_step(self, recipe: Recipe) -> Step:
        """The task's own step."""

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """What it minimises."""


def whole_step(task: _Task, recipe: Recipe) -> Step:
    """The step of a run: the task's step, for every replica if there are replicas, and the average of the weights."""
    make = task.make_step
    step = local_step(make, recipe) if recipe.local.active else make(recipe)
    return with_average(step, recipe, None if task.players else task.loss)


def spread(state: TrainState, local: LocalSGD) -> TrainState:
    """The state at step 0 with `local.replicas` equal copies."""
    own = {"params": state.params, "model_state": state.model_state, "opt_state": state.opt_state, "guard": state.guard}
    own["taken"] = jnp.zeros((), jnp.int32)
    copies = jax.tree.map(lambda a: jnp.broadcast_to(a, (local.replicas, *a.shape)), own)
    return dataclasses.replace(state, opt_state=LocalState(copies, jax.tree.map(jnp.zeros_like, state.params)))


def local_step(make: Callable[[Recipe], Step], recipe: Recipe) -> Step:
    """A step of every replica, and an exchange if one is due.

    A replica that took no step since the last exchange, because its numbers were not finite or its examples are masked, is
    left out of the mean and continues from the weights of the others.

    Args:
        make: a task's `make_step`.
        recipe: of the run; `recipe.local` is active.
    """
    local = recipe.local
    inside = dataclasses.replace(recipe, gradients=_specs(recipe.gradients))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        def one(number: Array, own: dict[str, Any], part: Batch) -> tuple[dict[str, Any], Metrics]:
            before = TrainState(
                state.step, own["params"], own["model_state"], own["opt_state"], average=(), guard=own["guard"]
            )
            after, metrics = make(dataclasses.replace(inside, replica=number))(before, part)
            taken = metrics.pop(TAKEN).sum if TAKEN in metrics else jnp.ones(())
            names = ("params", "model_state", "opt_state", "guard")
            moved = {name: getattr(after, name) for name in names}
            return {**moved, "taken": own["taken"] + (taken > 0).astype(jnp.int32)}, metrics

        old: LocalState = state.opt_state
        with apart_along(AXIS):
            each = jax.vmap(one, spmd_axis_name=AXIS if axis_size(AXIS) > 1 else None)
            replicas, metrics = each(jnp.arange(local.replicas), old.replicas, _by_replica(batch, local.replicas))
        due = (state.step + 1) % local.every == 0
        moved = (state.params, state.model_state, LocalState(replicas, old.momentum))

        def exchange(moved: tuple[Any, Any, LocalState]) -> tuple[Any, Any, LocalState]:
            return _exchange(local, *moved)

        params, model_state, opt_state = jax.lax.cond(due, exchange, lambda moved: moved, moved)
        metrics = jax.tree.map(lambda each: each.sum(axis=0), metrics)  # of the sums and the weights
        metrics[TAKEN] = Mean((due & (replicas["taken"] > 0).any()).astype(jnp.float32), jnp.ones(()))
        new = TrainState(state.step + 1, params, model_state, opt_state, state.average, _counted(state, old, replicas))
        return new, metrics

    return step


def _specs(shardings: Any) -> Any:
    """Shardings without their mesh, for code that uses only some of its axes."""
    return None if shardings is None else jax.tree.map(lambda one: one.spec, shardings)


def _by_replica(batch: Batch, replicas: int) -> Batch:
    """The rows `[B, ...]` of a batch as `[R, B / R, ...]`, each replica's split over the devices that it has."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in (AXES["batch"] or ()) if mesh.shape.get(axis, 1) > 1 and axis != AXIS)
    shares = math.prod(axis_size(axis) for axis in axes)

    def part(array: Array) -> Array:
        array = array.reshape(replicas, -1, *array.shape[1:])
        if mesh.empty:
            return array
        spec = P(AXIS if axis_size(AXIS) > 1 else None, axes if array.shape[1] % shares == 0 else None)
        return jax.lax.with_sharding_constraint(array, spec)

    return jax.tree.map(part, batch)


def _counted(state: TrainState, old: LocalState, replicas: dict[str, Any]) -> dict[str, Array]:
    """The guard's counters: a step counts as skipped or left out where it was for every replica."""
    counted = dict(state.guard)
    for name in ("skipped", "left_out"):
        change = replicas["guard"][name] - old.replicas["guard"][name]
        counted[name] = counted[name] + change.min()
    return counted


def _exchange(local: LocalSGD, params: Any, model_state: Any, state: LocalState) -> tuple[Any, Any, LocalState]:
    """New weights from the mean change of the replicas that took steps, given to all of them."""
    replicas = state.replicas
    weights = (replicas["taken"] > 0).astype(jnp.float32)
    share = weights / jnp.maximum(weights.sum(), 1.0)

    def mean(stacked: Array) -> Array:
        shaped = share.reshape(-1, *[1] * (stacked.ndim - 1))
        # A lost replica may contain any numbers, also numbers that are not finite.
        return (jnp.where(shaped > 0, stacked, 0) * shaped).sum(axis=0)

    def change(own: Array, common: Array) -> Array:
        apart = common[None] - own.astype(jnp.float32)
        return mean(apart) if local.exchange == "float32" else _mean_of_codes(apart, share)

    gradient = jax.tree.map(change, replicas["params"], params)
    rate, decay = local.outer_rate, local.outer_momentum
    momentum = jax.tree.map(lambda m, g: decay * m + g, state.momentum, gradient)
    new = jax.tree.map(
        lambda p, m, g: (p - rate * (decay * m + g)).astype(p.dtype), params, momentum, gradient
    )  # Nesterov
    common = jax.tree.map(
        lambda own, kept: mean(own).astype(own.dtype) if jnp.issubdtype(own.dtype, jnp.inexact) else kept,
        replicas["model_state"],
        model_state,
    )
    some = weights.sum() > 0
    new, momentum, common = (
        jax.tree.map(lambda a, b: jnp.where(some, a, b), made, kept)
        for made, kept in ((new, params), (momentum, state.momentum), (common, model_state))
    )

    def to_all(tree: Any, like: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.broadcast_to(a[None], b.shape).astype(b.dtype), tree, like)

    own = {
        **replicas,
        "params": to_all(new, replicas["params"]),
        "model_state": to_all(common, replicas["model_state"]),
        "taken": jnp.zeros_like(replicas["taken"]),
    }
    return new, common, LocalState(own, momentum)


def _mean_of_codes(apart: Array, share: Array) -> Array:
    """The mean over `[R, ...]` by `share`, of which only int8 codes travel between replicas: float32, of the shape `[...]`.

    Each replica sends every other one its part of the codes, each averages its part, and all receive the codes of the means:
    two times an eighth of what an all-reduce of float32 sends. A code is a 127th of the largest magnitude of its array.
    """
    replicas, shape = apart.shape[0], apart.shape[1:]
    dim = next((d for d, size in enumerate(shape) if size % replicas == 0), None)
    codes, scale = _codes(apart, tuple(range(1, apart.ndim)))
    codes = _placed(codes, {0: AXIS})
    codes = _placed(codes, {0: None} if dim is None else {0: None, dim + 1: AXIS})
    weight = (share.reshape(scale.shape) * scale).astype(jnp.float32)
    mean = (codes.astype(jnp.float32) * jnp.where(share.reshape(scale.shape) > 0, weight, 0)).sum(axis=0)
    if dim is None:
        return mean
    codes, scale = _codes(mean, tuple(range(mean.ndim)))
    return _placed(_placed(codes, {dim: AXIS}), {dim: None}).astype(jnp.float32) * scale


def _codes(array: Array, dims: tuple[int, ...]) -> tuple[Array, Array]:
    """int8 codes, and the scale of each group of `dims`; numbers that are not finite count as 0."""
    array = jnp.where(jnp.isfinite(array), array, 0)
    scale = jnp.abs(array).max(axis=dims, keepdims=True) / 127
    return jnp.round(array / jnp.maximum(scale, 1e-30)).astype(jnp.int8), scale


def _placed(array: Array, dims: dict[int, str | None]) -> Array:
    """The array with some dims divided among the replicas, or whole on each of them; the others stay as they are."""
    if axis_size(AXIS) == 1:
        return array
    spec = P(*[dims.get(d, P.UNCONSTRAINED) for d in range(array.ndim)])
    # The barriers keep the compiler from sending the numbers that the codes stand for.
    placed = jax.lax.with_sharding_constraint(jax.lax.optimization_barrier(array), spec)
    return jax.lax.optimization_barrier(placed)
