"""One optimizer step: gradient of the loss, micro-batches, the guard against non-finite numbers, the update."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnets.core.types import Aux, Batch, Mean, Variables
from jaxnets.ops.beyond_promise import compiled_for
from jaxnets.ops.norm import global_norm
from jaxnets.ops.random import stream_key, with_keys
from jaxnets.optim import reading
from jaxnets.optim.averaging import EMA
from jaxnets.optim.local_sgd import LocalSGD
from jaxnets.optim.schedules import on_schedule
from jaxnets.steps.health import HEALTH, Health, activations, measured, norms
from jaxnets.steps.precision import Precision
from jaxnets.steps.sown import with_sown
from jaxnets.steps.state import TrainState, strongly_typed

Metrics = dict[str, Mean]
# The loss of a task: `(variables, batch, key, train)`.
Loss = Callable[[Variables, Batch, Array, bool], tuple[Mean, Aux]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
# The metric by which a step says whether it changed the weights: 1 or 0. `with_average` reads it and takes it out.
TAKEN = "taken"

# float16's loss scale doubles after this many finite steps and halves at a non-finite one (Micikevicius et al. 2018).
GROWTH_INTERVAL = 2000


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything a training step is built from beside the task."""

    optimizer: optax.GradientTransformation
    """Takes the gradient of the mean loss over the whole batch."""
    seed: int = 0
    """Root of all randomness."""
    micro_batches: int = 1
    """Parts a batch is processed in, to save memory; the update is that of the whole batch."""
    precision: Precision = Precision()
    """What the layers compute in."""
    average: EMA = EMA()
    """Averaging of the weights."""
    local: LocalSGD = LocalSGD()
    """Replicas of the model that train apart for some steps."""
    replica: Any = None
    """Number of the replica that this recipe is for; None where there are none."""
    frozen: Callable[[Any], Any] | None = None
    """Which parameters the optimizer never changes, as a tree of bools; they have no gradient. None: it changes all."""
    players: Mapping[str, tuple[optax.GradientTransformation, Callable[[Any], Any]]] = dataclasses.field(
        default_factory=dict
    )
    """Optimizer and `frozen` of each player, where a task has several; {}: those above for all."""
    gradients: Any = None
    """Shardings of the gradients, as a tree like the parameters. None: what the compiler chooses."""
    optimizer_home: tuple[Any, Any] | None = None
    """Shardings of the optimizer state between steps, where it is in the memory of the host, and during the update; as trees
    like it. None: it stays where it is."""
    health: Health = Health()
    """What is measured of the network at every k-th step."""
    guard: Literal["skip", "off"] = "skip"
    """skip: a step whose loss or gradient is not finite changes nothing but the counters. off: no check at all."""

    def of(self, who: str) -> "Recipe":
        """The recipe of one player."""
        if who not in self.players:
            return self
        optimizer, frozen = self.players[who]
        return dataclasses.replace(self, optimizer=optimizer, frozen=frozen)

    def held(self, params: Any) -> Any:
        """The parameters, of which the frozen ones are constants to a gradient, so that their part is not computed."""
        if self.frozen is None:
            return params
        return jax.tree.map(lambda a, fixed: jax.lax.stop_gradient(a) if fixed else a, params, self.frozen(params))

    def placed(self, gradients: Any) -> Any:
        """The gradients, where they go."""
        return gradients if self.gradients is None else jax.lax.with_sharding_constraint(gradients, self.gradients)

    def key(self, stream: str, step: Array) -> Array:
        """The random key of a named stream at a step; in the model each replica has its own."""
        key = stream_key(self.seed, stream, step)
        return key if self.replica is None or stream != "model" else jax.random.fold_in(key, self.replica)


def make_train_step(loss: Loss, recipe: Recipe) -> Step:
    """A pure step that minimises `loss`, and what the module sows in the collection "losses", by `recipe.optimizer`.

    The metrics are undivided means over the batch: the loss's own, and `gradient_norm` (before clipping) and, with a
    guard, `skipped` (1 where the step changed nothing because a number was not finite) and `bad_leaf` (1 + the number of
    the first parameter whose gradient is not finite, else 0). A batch in which everything is masked changes nothing either.
    `taken` is 1 where the weights were updated.
    """
    loss = _minimised(loss)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = with_keys(batch, recipe.key("examples", state.step))
        scale = state.guard["loss_scale"] if recipe.precision.scales_loss else None
        gradients, mean, metrics, model_state = _gradients(loss, recipe, state, batch, scale)
        norm, bad_leaf = _norm(gradients)
        empty = mean.weight == 0
        finite = jnp.isfinite(mean.sum) & jnp.isfinite(norm) if recipe.guard == "skip" else jnp.ones((), bool)
        # A batch that is masked whole may hold anything, also numbers that are not finite.
        finite, taken = finite | empty, finite & ~empty
        extra = {"value": mean.sum / jnp.maximum(mean.weight, 1e-30), "grad": gradients}
        value_fn = _mean_loss(loss, recipe, state, batch)
        extra |= {"value_fn": value_fn, "grad_fn": lambda params, *_: jax.grad(value_fn)(params)}
        params, opt_state = _update(recipe, gradients, state, taken, extra)
        kept = _keep_if(taken, model_state, state.model_state)
        counters = _count(state.guard, finite, empty)
        new = dataclasses.replace(state, params=params, model_state=kept, opt_state=opt_state, guard=counters)
        metrics = {**metrics, "loss": mean, "gradient_norm": _counted(norm, ~empty), TAKEN: _flag(taken)}
        for name, value in reading.rates(opt_state).items():
            metrics[name] = _counted(value, ~empty)
        if recipe.guard == "skip":
            # float16 finds its loss scale by overflowing now and then: such a step is not counted as skipped.
            excused = jnp.isfinite(mean.sum) & (scale > 1.0) if scale is not None else jnp.zeros((), bool)
            metrics |= {"skipped": _flag(~(finite | excused)), "bad_leaf": _counted(bad_leaf, ~empty)}
            metrics["gradient_norm"] = _counted(norm, ~empty & ~(excused & ~finite))
        if recipe.health.active:
            metrics[HEALTH] = _health(loss, recipe, state, params, gradients, batch)
        return dataclasses.replace(new, step=state.step + 1), metrics

    return step


def _minimised(loss: Loss) -> Loss:
    """What the step minimises: the task's loss with what the module sows."""

    def whole(variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        return with_sown(*loss(variables, batch, key, train))

    return whole


def _flag(flag: Array) -> Mean:
    """1 where a step did something, else 0, as a mean over steps."""
    return Mean(flag.astype(jnp.float32), jnp.ones(()))


def _counted(value: Array, counts: Array) -> Mean:
    """A number of this step as a mean over steps; where `counts` is false it has no weight, and its value is ignored."""
    return Mean(jnp.where(counts, value, 0.0), counts.astype(jnp.float32))


def _norm(gradients: Any) -> tuple[Array, Array]:
    """The norm of all gradients together, and 1 + the number of the first leaf that is not finite (0: none), float32."""
    norm, finite = global_norm(gradients)
    return norm, jnp.where(finite.all(), 0.0, jnp.argmin(finite) + 1.0)


def _update(recipe: Recipe, gradients: Any, state: TrainState, taken: Array, extra: dict[str, Any]) -> Any:
    """The parameters and optimizer state after a step; those before it unless `taken`.

    `extra` are keywords for optimizers that use more than the gradient: `value`, `grad`, `value_fn`, `grad_fn`.
    """
    update = optax.with_extra_args_support(recipe.optimizer).update
    opt_state, home = state.opt_state, recipe.optimizer_home
    if home is not None:
        opt_state = jax.device_put(opt_state, home[1])

    def moved(gradients: Any, opt_state: Any, params: Any) -> Any:
        # Schedules depend on the number of the batch, whether or not the batches before were skipped.
        updates, opt_state = update(gradients, on_schedule(opt_state, state.step), params, **extra)
        return optax.apply_updates(params, updates), strongly_typed(opt_state)

    arguments = (gradients, opt_state, state.params)
    # A branch costs the CPU nothing, where selecting reads every array once more. An accelerator would wait for the
    # host to learn which branch to take.
    if compiled_for() == "cpu":
        params, opt_state = jax.lax.cond(taken, moved, lambda _, opt_state, params: (params, opt_state), *arguments)
    else:
        params, opt_state = _keep_if(taken, moved(*arguments), (state.params, opt_state))
    return params, opt_state if home is None else jax.device_put(opt_state, home[0])


def with_average(step: Step, average: EMA) -> Step:
    """A task's step that also updates the average of the weights, where there is one.

    A step that was not taken leaves the average as it is. A step that says nothing of it (no `taken` among its metrics) is
    always taken. `taken` itself is not handed on.
    """

    def averaged(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new, metrics = step(state, batch)
        taken = metrics[TAKEN].sum > 0 if TAKEN in metrics else jnp.ones((), bool)
        metrics = {name: mean for name, mean in metrics.items() if name != TAKEN}
        if not average.active:
            return new, metrics
        batches = state.step - state.guard["skipped"] - state.guard["left_out"]
        after = average.update(state.average, new.variables, reading.updates_done(state.opt_state, batches))
        return dataclasses.replace(
            new, average=_keep_if(taken & reading.moved(new.opt_state), after, state.average)
        ), metrics

    return averaged


def _mean_loss(loss: Loss, recipe: Recipe, state: TrainState, batch: Batch) -> Callable[[Any], Array]:
    """The mean loss of the batch as a function of the parameters, with the random draws of this step."""
    key, count = recipe.key("model", state.step), recipe.micro_batches

    def one(params: Any, part: Batch, key: Array) -> Mean:
        variables, part = recipe.precision.cast({"params": recipe.held(params), **state.model_state}, part)
        return loss(variables, part, key, True)[0]

    def value(params: Any) -> Array:
        if count == 1:
            mean = one(params, batch, key)
        else:
            parts = jax.tree.map(lambda a: _split(a, count), batch)
            means = jax.lax.map(lambda p: one(params, p[0], jax.random.fold_in(key, p[1])), (parts, jnp.arange(count)))
            mean = Mean(means.sum.sum(), means.weight.sum())
        return mean.sum / jnp.maximum(mean.weight, 1e-30)

    return value


def _gradients(
    loss: Loss, recipe: Recipe, state: TrainState, batch: Batch, scale: Array | None
) -> tuple[Any, Mean, Metrics, Variables]:
    """The gradient of the batch's mean loss, that mean, the metrics, and the model state after the last micro-batch."""
    rows = jax.tree.leaves(batch)[0].shape[0]
    # The sum of the loss is differentiated and the total weight divided out at the end, which is exact for any masks.
    # A constant of the size of the weight keeps the numbers moderate in between.
    factor = 1.0 / rows if scale is None else scale / rows

    def total(params: Any, model_state: Variables, part: Batch, key: Array) -> tuple[Array, tuple[Mean, Aux]]:
        variables, part = recipe.precision.cast({"params": recipe.held(params), **model_state}, part)
        mean, aux = loss(variables, part, key, True)
        return mean.sum * factor, (mean, aux)

    differentiate = jax.grad(total, has_aux=True)
    key = recipe.key("model", state.step)
    count = recipe.micro_batches
    if count == 1:
        gradients, (mean, aux) = differentiate(state.params, state.model_state, batch, key)
        gradients, metrics, model_state = recipe.placed(gradients), aux.metrics, aux.model_state
    else:
        parts = jax.tree.map(lambda a: _split(a, count), batch)

        def accumulate(carry: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
            so_far, model_state = carry
            piece, index = part
            gradients, (mean, aux) = differentiate(state.params, model_state, piece, jax.random.fold_in(key, index))
            so_far = jax.tree.map(jnp.add, so_far, (recipe.placed(gradients), mean, aux.metrics))
            return (so_far, aux.model_state), None

        first = jax.tree.map(lambda a: a[0], parts)
        shapes = jax.eval_shape(differentiate, state.params, state.model_state, first, key)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (shapes[0], shapes[1][0], shapes[1][1].metrics))
        zeros = (recipe.placed(zeros[0]), *zeros[1:])
        (sums, model_state), _ = jax.lax.scan(accumulate, (zeros, state.model_state), (parts, jnp.arange(count)))
        gradients, mean, metrics = sums
    # A batch in which everything is masked has no gradient, rather than 0/0.
    undo = jnp.where(mean.weight > 0, 1.0 / (jnp.maximum(mean.weight, 1e-30) * factor), 0.0)
    return jax.tree.map(lambda g: g * undo, gradients), mean, metrics, model_state


def _health(loss: Loss, recipe: Recipe, state: TrainState, params: Any, gradients: Any, batch: Batch) -> Any:
    """The readings of a step that made `params` of `state.params`; activations are those of the first micro-batch."""

    def call() -> Any:
        part, key, count = batch, recipe.key("model", state.step), recipe.micro_batches
        if count > 1:
            part, key = jax.tree.map(lambda a: _split(a, count)[0], batch), jax.random.fold_in(key, 0)
        return loss(*recipe.precision.cast(state.variables, part), key, True)

    def measure() -> dict[str, Array]:
        inside = activations(call) if recipe.health.inside == "all" else {}
        return norms(state.params, params, gradients) | inside

    return measured(recipe.health, state.step, measure)


def _split(a: Array, count: int) -> Array:
    """`[B, ...]` to `[count, B / count, ...]`; part i takes rows i, i + count, ... so that every device has a share."""
    return jnp.moveaxis(a.reshape(a.shape[0] // count, count, *a.shape[1:]), 1, 0)


def _keep_if(finite: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def _count(guard: dict[str, Array], finite: Array, empty: Array) -> dict[str, Array]:
    """The guard's counters after a step; with loss scaling, the next scale."""
    more = {"skipped": ~finite, "left_out": empty}
    counted = {**guard, **{name: guard[name] + flag.astype(jnp.int32) for name, flag in more.items()}}
    if "loss_scale" in guard:
        streak = jnp.where(finite, guard["finite_streak"] + 1, 0)
        grown = streak >= GROWTH_INTERVAL
        scale = jnp.where(
            finite, jnp.where(grown, guard["loss_scale"] * 2, guard["loss_scale"]), guard["loss_scale"] / 2
        )
        counted |= {"loss_scale": jnp.maximum(scale, 1.0), "finite_streak": jnp.where(grown, 0, streak)}
    return counted
