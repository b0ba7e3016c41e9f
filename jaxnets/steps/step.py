"""One optimizer step: gradient of the loss, micro-batches, the guard against non-finite numbers, the update."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnets.core.types import SECOND_USE, Aux, Batch, Mean, Variables
from jaxnets.ops.axes import AXES, axis_size
from jaxnets.ops.beyond_promise import compiled_for
from jaxnets.ops.own_rows import summed_later
from jaxnets.ops.random import with_keys
from jaxnets.optim import reading
from jaxnets.optim.schedules import on_schedule
from jaxnets.steps import second_use
from jaxnets.steps.counters import count_step, counted, flag_of, norm_of
from jaxnets.steps.health import HEALTH, activations, measured, norms
from jaxnets.steps.recipe import TAKEN, Loss, Metrics, Recipe, Step
from jaxnets.steps.selective import hardest
from jaxnets.steps.sown import with_sown
from jaxnets.steps.state import TrainState, strongly_typed


def make_train_step(loss: Loss, recipe: Recipe) -> Step:
    """A pure step that minimises `loss`, and what the module sows in the collection "losses", by `recipe.optimizer`.

    The metrics are undivided means over the batch: the loss's own, without penalties on weights; `gradient_norm` (with these
    penalties, before clipping); `weight_penalty`, where there are some; and, with a guard, `skipped` (1 where the step changed
    nothing because a number was not finite) and `bad_leaf` (1 + the number of the first parameter whose gradient is not
    finite, else 0). A batch in which everything is masked changes nothing either.
    `taken` is 1 where the weights were updated.
    """
    loss = minimised(loss)
    if recipe.selective < 1:
        loss = hardest(loss, recipe.selective)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = with_keys(batch, recipe.key("examples", state.step))
        scale = state.guard["loss_scale"] if recipe.precision.scales_loss else None
        gradients, mean, metrics, model_state = _gradients(loss, recipe, state, batch, scale)
        terms = recipe.penalised(state.params) if recipe.penalty.in_loss else None
        if terms is not None:
            slopes = jax.grad(recipe.penalised)(state.params)
            gradients = jax.tree.map(lambda g, s: g + s.astype(g.dtype), gradients, slopes)
        norm, bad_leaf = norm_of(gradients)
        empty = mean.weight == 0
        finite = jnp.isfinite(mean.sum) & jnp.isfinite(norm) if recipe.guard == "skip" else jnp.ones((), bool)
        # A completely masked batch may contain any numbers, also numbers that are not finite.
        finite, taken = finite | empty, finite & ~empty
        gradients = recipe.treated(gradients, state.params, state.step)
        value = mean.sum / jnp.maximum(mean.weight, 1e-30)
        extra = {"value": value if terms is None else value + terms, "grad": gradients}
        value_fn = _mean_loss(loss, recipe, state, batch)
        extra |= {"value_fn": value_fn}
        extra |= {"grad_fn": lambda params, *_: recipe.treated(jax.grad(value_fn)(params), params, state.step)}
        params, opt_state = _update(recipe, gradients, state, taken, extra)
        kept = keep_if(taken, model_state, state.model_state)
        counters = count_step(state.guard, finite, empty)
        new = dataclasses.replace(state, params=params, model_state=kept, opt_state=opt_state, guard=counters)
        metrics = {**metrics, "loss": mean, "gradient_norm": counted(norm, ~empty), TAKEN: flag_of(taken)}
        for name, value in reading.rates(opt_state).items():
            metrics[name] = counted(value, ~empty)
        if terms is not None:
            metrics["weight_penalty"] = counted(terms, ~empty)
        if recipe.guard == "skip":
            # float16 finds its loss scale by overflowing now and then: such a step is not counted as skipped.
            excused = jnp.isfinite(mean.sum) & (scale > 1.0) if scale is not None else jnp.zeros((), bool)
            metrics |= {"skipped": flag_of(~(finite | excused)), "bad_leaf": counted(bad_leaf, ~empty)}
            metrics["gradient_norm"] = counted(norm, ~empty & ~(excused & ~finite))
        if recipe.health.active:
            metrics[HEALTH] = _health(loss, recipe, state, params, gradients, batch)
        return dataclasses.replace(new, step=state.step + 1), metrics

    return step


def minimised(loss: Loss) -> Loss:
    """What the step minimises: the task's loss with what the module sows."""

    def whole(variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        return with_sown(*loss(variables, batch, key, train))

    return whole


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
        return recipe.thresholded(optax.apply_updates(params, updates), state.step), strongly_typed(opt_state)

    arguments = (gradients, opt_state, state.params)
    # A branch is free on the CPU, but a selection reads every array once more. On an accelerator a branch would wait for the
    # host.
    if compiled_for() == "cpu":
        params, opt_state = jax.lax.cond(taken, moved, lambda _, opt_state, params: (params, opt_state), *arguments)
    else:
        params, opt_state = keep_if(taken, moved(*arguments), (state.params, opt_state))
    return params, opt_state if home is None else jax.device_put(opt_state, home[0])


def _mean_loss(loss: Loss, recipe: Recipe, state: TrainState, batch: Batch) -> Callable[[Any], Array]:
    """The mean loss of the batch as a function of the parameters, with the random draws of this step."""
    key, count = recipe.key("model", state.step), recipe.micro_batches

    def one(params: Any, part: Batch, key: Array) -> Mean:
        variables, part = recipe.precision.cast({"params": recipe.seen(params, state.step), **state.model_state}, part)
        return loss(variables, part, key, True)[0]

    def value(params: Any) -> Array:
        if count == 1:
            mean = one(params, batch, key)
        else:
            parts = jax.tree.map(lambda a: split(a, count), batch)
            means = jax.lax.map(lambda p: one(params, p[0], jax.random.fold_in(key, p[1])), (parts, jnp.arange(count)))
            mean = Mean(means.sum.sum(), means.weight.sum())
        value = mean.sum / jnp.maximum(mean.weight, 1e-30)
        return value + recipe.penalised(params) if recipe.penalty.in_loss else value

    return value


def _gradients(
    loss: Loss, recipe: Recipe, state: TrainState, batch: Batch, scale: Array | None
) -> tuple[Any, Mean, Metrics, Variables]:
    """The gradient of the batch's mean loss, that mean, the metrics, and the model state after the last micro-batch."""
    rows = jax.tree.leaves(batch)[0].shape[0]
    # The sum of the loss is differentiated and the total weight divided out at the end, which is exact for any masks.
    # A constant of the size of the weight keeps the numbers moderate in between.
    factor = 1.0 / rows if scale is None else scale / rows

    def total(
        params: Any, again: Any, model_state: Variables, part: Batch, key: Array
    ) -> tuple[Array, tuple[Mean, Aux]]:
        variables = {"params": recipe.seen(params, state.step), **model_state}
        if again:
            seen = recipe.seen(second_use.joined(params, again, lambda _, table: table), state.step)
            variables[SECOND_USE] = recipe.precision.params(second_use.tables(seen))
        variables, part = recipe.precision.cast(variables, part)
        mean, aux = loss(variables, part, key, True)
        return mean.sum * factor, (mean, aux._replace(model_state=second_use.without(aux.model_state)))

    differentiate = jax.grad(total, (0, 1), has_aux=True)
    key = recipe.key("model", state.step)
    count = recipe.micro_batches
    if count == 1:
        (gradients, _), (mean, aux) = differentiate(state.params, {}, state.model_state, batch, key)
        gradients = gradients if recipe.sums_whole else recipe.placed(gradients)
        metrics, model_state = aux.metrics, aux.model_state
    else:
        parts = jax.tree.map(lambda a: split(a, count), batch)
        later = _sums_later(recipe)
        again = second_use.tables(state.params) if later else {}

        def placed(gradients: Any, more: Any) -> tuple[Any, Any]:
            return recipe.placed(gradients), recipe.placed(more, second_use.tables) if again else more

        def accumulate(carry: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
            (gradients, other), model_state = carry
            piece, index = part
            with summed_later(later):
                found, (mean, aux) = differentiate(
                    state.params, again, model_state, piece, jax.random.fold_in(key, index)
                )
            # Placed where they come in too: otherwise what follows the loop decides where the sums are inside of it.
            sums = jax.tree.map(jnp.add, placed(*gradients), placed(*found))
            return ((placed(*sums), jax.tree.map(jnp.add, other, (mean, aux.metrics))), aux.model_state), None

        first = jax.tree.map(lambda a: a[0], parts)
        shapes, aux = jax.eval_shape(differentiate, state.params, again, state.model_state, first, key)
        zeros, other = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (shapes, (aux[0], aux[1].metrics)))
        carry = (placed(*zeros), other), state.model_state
        ((sums, (mean, metrics)), model_state), _ = jax.lax.scan(accumulate, carry, (parts, jnp.arange(count)))
        gradients, more = placed(*sums)
        gradients = second_use.joined(gradients, more, jnp.add) if again else gradients
    # A batch in which everything is masked has no gradient, rather than 0/0.
    undo = jnp.where(mean.weight > 0, 1.0 / (jnp.maximum(mean.weight, 1e-30) * factor), 0.0)
    return jax.tree.map(lambda g: g * undo, gradients), mean, metrics, model_state


def _sums_later(recipe: Recipe) -> tuple[str, ...]:
    """The axes over which compilers may sum gradients after the last micro-batch: all of a batch but `fsdp`, unless a device
    has room for whole sums."""
    axes = (axis for axis in AXES["batch"] or () if axis != "fsdp" or recipe.sums_whole)
    return tuple(axis for axis in axes if axis_size(axis) > 1)


def _health(loss: Loss, recipe: Recipe, state: TrainState, params: Any, gradients: Any, batch: Batch) -> Any:
    """The readings of a step that made `params` of `state.params`; activations are those of the first micro-batch."""

    def call() -> Any:
        part, key, count = batch, recipe.key("model", state.step), recipe.micro_batches
        if count > 1:
            part, key = jax.tree.map(lambda a: split(a, count)[0], batch), jax.random.fold_in(key, 0)
        return loss(*recipe.precision.cast(state.variables, part), key, True)

    def measure() -> dict[str, Array]:
        inside = activations(call) if recipe.health.inside == "all" else {}
        return norms(state.params, params, gradients) | inside

    return measured(recipe.health, state.step, measure)


def split(a: Array, count: int) -> Array:
    """`[B, ...]` to `[count, B / count, ...]`; part i takes rows i, i + count, ... so that every device has a share."""
    return jnp.moveaxis(a.reshape(a.shape[0] // count, count, *a.shape[1:]), 1, 0)


def keep_if(finite: Array, new: Any, old: Any) -> Any:
    """The new tree where `finite`, else the old one."""
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


def with_average(step: Step, recipe: Recipe, loss: Loss | None = None) -> Step:
    """A task's step that also updates the average of the weights, if there is one.

    A step that was not taken leaves the average as it is. A step without `taken` among its metrics is always taken. `taken`
    itself is removed from the metrics. With `loss` the averaged model measures its batch statistics if the average requires
    it; None: they are averaged like the weights.
    """
    average = recipe.average

    def averaged(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new, metrics = step(state, batch)
        taken = metrics[TAKEN].sum > 0 if TAKEN in metrics else jnp.ones((), bool)
        metrics = {name: mean for name, mean in metrics.items() if name != TAKEN}
        if not average.active:
            return new, metrics
        batches = state.step - state.guard["skipped"] - state.guard["left_out"]
        updates = reading.updates_done(state.opt_state, batches)
        after = average.update(state.average, new.variables, updates)
        measured = average.recomputes(updates)
        if loss is not None and measured is not None and state.model_state:
            after |= _statistics(loss, recipe, state, after, batch, measured)
        return dataclasses.replace(
            new, average=keep_if(taken & reading.moved(new.opt_state), after, state.average)
        ), metrics

    return averaged


def _statistics(
    loss: Loss, recipe: Recipe, state: TrainState, after: Any, batch: Batch, measured: Array
) -> dict[str, Any]:
    """The other collections of the averaged model: after it has seen this batch if `measured`, else those of `after`."""
    batch = with_keys(batch, recipe.key("examples", state.step))
    part = jax.tree.map(lambda a: split(a, recipe.micro_batches)[0], batch)

    def measure() -> dict[str, Any]:
        own = {name: state.average[name] for name in state.model_state}
        variables, given = recipe.precision.cast({"params": after["params"], **own}, part)
        return dict(minimised(loss)(variables, given, recipe.key("model", state.step), True)[1].model_state)

    return jax.lax.cond(measured, measure, lambda: {name: after[name] for name in state.model_state})
