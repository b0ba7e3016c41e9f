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
from jaxnets.ops.initialisers import Initialiser
from jaxnets.ops.random import stream_key, with_keys
from jaxnets.optim import reading
from jaxnets.optim.averaging import EMA, Average
from jaxnets.optim.gradient import Gradient
from jaxnets.optim.local_sgd import LocalSGD
from jaxnets.optim.penalty import Penalty
from jaxnets.optim.schedules import on_schedule
from jaxnets.steps.counters import count_step, counted, flag_of, norm_of
from jaxnets.steps.precision import Precision
from jaxnets.steps.selective import hardest
from jaxnets.steps.sown import with_sown
from jaxnets.steps.state import TrainState, strongly_typed

Metrics = dict[str, Mean]
# The loss of a task: `(variables, batch, key, train)`.
Loss = Callable[[Variables, Batch, Array, bool], tuple[Mean, Aux]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
# The metric by which a step says whether it changed the weights: 1 or 0. `with_average` reads it and takes it out.
TAKEN = "taken"


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
    average: Average = EMA()
    """Averaging of the weights, with its durations in steps (`Average.in_run`)."""
    initialiser: Initialiser = Initialiser()
    """How the weights begin."""
    local: LocalSGD = LocalSGD()
    """Replicas of the model that train apart for some steps."""
    replica: Any = None
    """Number of the replica that this recipe is for; None where there are none."""
    selective: float = 1.0
    """Share of each batch, of the examples with the largest loss, that get a gradient (`steps/selective.py`); 1: all."""
    frozen: Callable[[Any], Any] | None = None
    """Which parameters the optimizer never changes, as a tree of bools; they have no gradient. None: it changes all."""
    players: Mapping[str, tuple[optax.GradientTransformation, Callable[[Any], Any]]] = dataclasses.field(
        default_factory=dict
    )
    """Optimizer and `frozen` of each player, where a task has several; {}: those above for all."""
    gradient: Gradient = Gradient()
    """What is done to the gradient before the optimizer gets it."""
    penalty: Penalty = Penalty()
    """Penalties on weights."""
    rate: Callable[[Array], Any] | None = None
    """The learning rate of a step, where the optimizer has a single one: for the L1 step of the penalty."""
    player: str = ""
    """The player that this recipe is for, where a task has several."""
    turn: Any = None
    """Number of its turn in the step; None where there are no players."""
    gradients: Any = None
    """Shardings of the gradients, as a tree like the parameters. None: what the compiler chooses."""
    optimizer_home: tuple[Any, Any] | None = None
    """Shardings of the optimizer state between steps, where it is in the memory of the host, and during the update; as trees
    like it. None: it stays where it is."""
    guard: Literal["skip", "off"] = "skip"
    """skip: a step whose loss or gradient is not finite changes nothing but the counters. off: no check at all."""

    def of(self, who: str, turn: Any = None) -> "Recipe":
        """The recipe of one player in one of its turns."""
        optimizer, frozen = self.players.get(who, (self.optimizer, self.frozen))
        return dataclasses.replace(self, optimizer=optimizer, frozen=frozen, player=who, turn=turn)

    def held(self, params: Any) -> Any:
        """The parameters, of which the frozen ones are constants to a gradient, so that their part is not computed."""
        if self.frozen is None:
            return params
        return jax.tree.map(lambda a, fixed: jax.lax.stop_gradient(a) if fixed else a, params, self.frozen(params))

    def seen(self, params: Any, step: Array) -> Any:
        """The parameters as the forward pass of a step sees them: held, and with noise where the penalty has some."""
        params = self.held(params)
        if not self.penalty.weight_noise:
            return params
        return self.penalty.noisy(params, self.own_key("weight noise", step), self.beginning)

    def penalised(self, params: Any) -> Array:
        """The penalty's terms of the loss; frozen parameters are constants to their gradient."""
        return self.penalty.value(self.held(params), self.beginning)

    def treated(self, gradients: Any, params: Any, step: Array) -> Any:
        """The gradient of the whole batch as the optimizer gets it."""
        if not self.gradient.active:
            return gradients
        return self.gradient.apply(gradients, params, self.own_key("gradient noise", step), step)

    def thresholded(self, params: Any, step: Array) -> Any:
        """The parameters after an update, and after the L1 step where there is one."""
        if not self.penalty.l1 or self.rate is None:
            return params
        return self.penalty.thresholded(params, self.rate(step), self.beginning)

    @property
    def beginning(self) -> str:
        """What comes before the paths of these parameters in those of the whole state."""
        return f"{self.player}/" if self.player else ""

    def placed(self, gradients: Any) -> Any:
        """The gradients, where they go."""
        return gradients if self.gradients is None else jax.lax.with_sharding_constraint(gradients, self.gradients)

    def key(self, stream: str, step: Array) -> Array:
        """The random key of a named stream at a step; in the model each replica has its own."""
        key = stream_key(self.seed, stream, step)
        return key if self.replica is None or stream != "model" else jax.random.fold_in(key, self.replica)

    def own_key(self, stream: str, step: Array) -> Array:
        """The random key of a stream at a step, another one for each player, turn and replica."""
        key = stream_key(self.seed, f"{stream}/{self.player}", step)
        for number in (self.turn, self.replica):
            key = key if number is None else jax.random.fold_in(key, number)
        return key


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
        # A batch that is masked whole may hold anything, also numbers that are not finite.
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
    # A branch costs the CPU nothing, where selecting reads every array once more. An accelerator would wait for the
    # host to learn which branch to take.
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

    def total(params: Any, model_state: Variables, part: Batch, key: Array) -> tuple[Array, tuple[Mean, Aux]]:
        variables, part = recipe.precision.cast({"params": recipe.seen(params, state.step), **model_state}, part)
        mean, aux = loss(variables, part, key, True)
        return mean.sum * factor, (mean, aux)

    differentiate = jax.grad(total, has_aux=True)
    key = recipe.key("model", state.step)
    count = recipe.micro_batches
    if count == 1:
        gradients, (mean, aux) = differentiate(state.params, state.model_state, batch, key)
        gradients, metrics, model_state = recipe.placed(gradients), aux.metrics, aux.model_state
    else:
        parts = jax.tree.map(lambda a: split(a, count), batch)

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


def split(a: Array, count: int) -> Array:
    """`[B, ...]` to `[count, B / count, ...]`; part i takes rows i, i + count, ... so that every device has a share."""
    return jnp.moveaxis(a.reshape(a.shape[0] // count, count, *a.shape[1:]), 1, 0)


def keep_if(finite: Array, new: Any, old: Any) -> Any:
    """The new tree where `finite`, else the old one."""
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
