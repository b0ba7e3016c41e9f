"""The learning rate of an experiment, by range tests of its own training step: `jaxnets find-lr`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnets.checkpoints.begin import begin_from
from jaxnets.checkpoints.initial import Initial, begin_with
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.data.dataset import Dataset
from jaxnets.diagnose.rates import RateTest, growing_rates, losses_by_rate
from jaxnets.optim.averaging import EMA
from jaxnets.optim.given import ByPath, Frozen
from jaxnets.optim.later import Later
from jaxnets.optim.local_sgd import LocalSGD
from jaxnets.optim.optimizers import Optimizer
from jaxnets.optim.schedules import Constant, on_schedule
from jaxnets.runs.build import Parts, assemble
from jaxnets.steps.recipe import Recipe
from jaxnets.training.initial import create_state

# States of Optax's optimizers whose update is not proportional to a learning rate, with the reason.
UNSCALED = {
    "ScheduleFreeState": "trains an average of its weights, which its state follows",
    "Synced": "moves back to slow weights in its state (lookahead)",
    "LookaheadState": "moves back to slow weights in its state",
    "SAMState": "takes an adversarial step, whose size is no learning rate",
    "ScaleByBacktrackingLinesearchState": "searches for the length of each step",
    "ScaleByZoomLinesearchState": "searches for the length of each step",
    "ScaleByMomoState": "computes the length of each step from the loss",
    "MomoState": "computes the length of each step from the loss",
    "MomoAdamState": "computes the length of each step from the loss",
    "ProdigyState": "estimates its own learning rate",
    "DAdaptAdamWState": "estimates its own learning rate",
    "MechanicState": "estimates its own learning rate",
    "COCOBState": "has no learning rate",
    "DoGState": "estimates its own learning rate",
}


@dataclasses.dataclass(frozen=True)
class FoundRate:
    """Rates to train with, for the optimizer as a whole and for its groups."""

    test: RateTest
    """All groups at once, their rates in the proportions in which they are given; rates are those of the largest."""
    groups: Mapping[str, RateTest]
    """Each group alone, while the others are fixed, by its pattern; {} if there is one group."""
    given: float | None
    """The (largest) rate of the experiment; None: the optimizer does not expose it, and all rates are multiples of it."""

    @property
    def rate(self) -> float:
        """The rate to train with: the peak of a schedule. A multiple of the optimizer's own where `given` is None."""
        return self.test.pick


def find_rate(
    experiment: Experiment,
    dataset: Dataset | None = None,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    tries: int = 150,
    repeats: int = 3,
    initial: Initial | None = None,
) -> FoundRate:
    """Range tests from fresh weights (or `initial`), on the experiment's data, model, optimizer and mesh.

    The learning rate multiplies the whole update, decoupled weight decay included, as in the optimizer itself. The short
    trainings are discarded.

    Args:
        experiment: what would be trained; averages of the weights and replicas are ignored in the test.
        dataset: the data, where they are not to be opened from `experiment.data`.
        low: the first rate. For an optimizer that does not say its rate, these are multiples of it.
        high: the last rate.
        tries: rates, each for one batch.
        repeats: tests with other weights and batches; the picks' spread says how far to trust them.
        initial: weights to begin with.

    Raises:
        UsageError: the optimizer has no learning rate, or the task does not train by one.
    """
    if repeats < 1:
        raise UsageError(f"repeats is at least 1, got {repeats}")
    rates = growing_rates(low, high, tries)
    unit, bases = at_rate_one(experiment.optimizer)
    plain = dataclasses.replace(experiment, optimizer=unit, average=EMA(), local=LocalSGD())
    parts = assemble(plain, dataset)
    _check_task(parts)
    check_scalable(parts.abstract.opt_state)
    known = [base for base in bases.values() if base is not None]
    given = max(known) if len(known) == len(bases) and known else None
    own = np.asarray([1.0 if base is None else base for base in bases.values()], np.float32)
    unscaled = given or 1.0
    whole = rates[:, None] / unscaled * own[None]
    moving = [n for n, one in enumerate(_groups(unit)) if not isinstance(one, Frozen)]
    alone = moving if len(moving) > 1 else []
    with jax.set_mesh(parts.mesh):
        run = _Sweeps(parts, _labels(unit), schedules=len(known) < len(bases))
        states = [_begun(parts, number, initial) for number in range(repeats)]
        found = RateTest(rates, run(states, whole))
        groups = {}
        for number in alone:
            base = 1.0 if given is None else float(own[number]) / unscaled
            only = np.where(np.arange(len(bases))[None] == number, whole, 0).astype(np.float32)
            groups[list(bases)[number]] = RateTest(rates, run(states, only)).times(base)
    return FoundRate(found, groups, given)


def at_rate_one(optimizer: Optimizer) -> tuple[Optimizer, dict[str, float | None]]:
    """The optimizer at a constant rate of 1, and the original rate of each group; None: it does not expose it."""
    if isinstance(optimizer, ByPath):
        made = {pattern: at_rate_one(part) for pattern, part in optimizer.rules}
        rules = tuple((pattern, made[pattern][0]) for pattern, _ in optimizer.rules)
        return ByPath(rules), {pattern: next(iter(rates.values())) for pattern, (_, rates) in made.items()}
    if isinstance(optimizer, Frozen):
        return optimizer, {"": 0.0}
    if isinstance(optimizer, Later):
        return at_rate_one(optimizer.optimizer)
    given: Any = optimizer
    if hasattr(optimizer, "optimizer"):
        inner, rates = at_rate_one(given.optimizer)
        return dataclasses.replace(given, optimizer=inner), rates
    if hasattr(optimizer, "learning_rate") and hasattr(optimizer, "schedule"):
        return dataclasses.replace(given, learning_rate=1.0, schedule=Constant()), {"": float(given.learning_rate)}
    return optimizer, {"": None}


def check_scalable(opt_state: Any) -> None:
    """Raise `UsageError` for the state of an optimizer whose updates are not proportional to a learning rate."""
    stack = [opt_state]
    while stack:
        node = stack.pop()
        name = type(node).__name__
        if name in UNSCALED:
            raise UsageError(
                f"find-lr multiplies the updates, and this optimizer {UNSCALED[name]} (its state is {name}); find the rate of "
                f"the optimizer inside it, or compare runs"
            )
        if isinstance(node, tuple | list):
            stack += list(node)
        elif isinstance(node, Mapping):
            stack += list(node.values())
        elif dataclasses.is_dataclass(node):
            stack += [getattr(node, field.name) for field in dataclasses.fields(node)]


def scaled(
    inner: optax.GradientTransformation, factors: Array, labels: Callable[[Any], Any], held_at: Array | None = None
) -> optax.GradientTransformationExtraArgs:
    """The transformation with its updates multiplied by the factor `[G]` of their group; the state is that of `inner`.

    Args:
        inner: what makes the updates.
        factors: `[G]`; may be traced.
        labels: parameters to a tree of group numbers.
        held_at: the step at which the schedules inside are fixed; None: they continue.
    """
    whole = optax.with_extra_args_support(inner)

    def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        state = state if held_at is None else on_schedule(state, held_at)
        updates, state = whole.update(gradients, state, params, **extra)
        return jax.tree.map(lambda u, n: u * factors[n].astype(u.dtype), updates, labels(updates)), state

    return optax.GradientTransformationExtraArgs(whole.init, update)


def peak_step(optimizer: optax.GradientTransformation, params: Any, steps: int, *, tried: int = 33) -> Array:
    """The step of a run at which the schedules inside an optimizer make the largest update, int32; 0 without schedules.

    Found by giving the same gradient to the state at `tried` steps: an Optax transformation does not expose its schedule.
    """
    state = optimizer.init(params)
    ones = jax.tree.map(jnp.ones_like, params)

    def size(step: Array) -> Array:
        updates, _ = optax.with_extra_args_support(optimizer).update(ones, on_schedule(state, step), params, value=1.0)
        return optax.tree.norm(updates).astype(jnp.float32)

    at = jnp.linspace(0, max(steps - 1, 0), tried).astype(jnp.int32)
    return at[jnp.argmax(jax.lax.map(size, at))]


class _Sweeps:
    """Range tests of an experiment's step, compiled once."""

    def __init__(self, parts: Parts, labels: Callable[[Any], Any], *, schedules: bool) -> None:
        """`schedules`: the optimizer may have schedules that it does not expose; they are fixed at their peak."""
        task, recipe, feed = parts.task, parts.recipe, parts.feed

        def run(state: Any, payload: Any, factors: Array, held: Array) -> Array:
            at = held if schedules else None

            def step(state: Any, batch: Any, factors: Array) -> tuple[Any, Array]:
                own = dataclasses.replace(recipe, optimizer=scaled(recipe.optimizer, factors, labels, at))
                new, metrics = task.make_step(own)(state, batch)
                loss = metrics["loss"]
                bad = metrics["skipped"].sum > 0 if "skipped" in metrics else jnp.zeros((), bool)
                return new, jnp.where(bad, jnp.inf, loss.sum / jnp.maximum(loss.weight, 1e-30))

            return losses_by_rate(step, state, payload, factors, take=lambda payload, i: feed.batch(payload, i, i))

        self._feed, self._schedules, self._run = feed, schedules, jax.jit(run)
        self._peak = jax.jit(functools.partial(peak_step, recipe.optimizer, steps=parts.experiment.total_steps))

    def __call__(self, states: list[Any], factors: np.ndarray) -> np.ndarray:
        """The losses `[R, T]` for factors `[T, G]`; each repeat has batches of its own."""
        count, losses = len(factors), []
        for number, state in enumerate(states):
            held = self._peak(state.params) if self._schedules else jnp.zeros((), jnp.int32)
            payload = self._feed.load(number * count, count, count)
            losses.append(np.asarray(self._run(state, payload, jnp.asarray(factors), held)))
        return np.stack(losses)


def _labels(optimizer: Optimizer) -> Callable[[Any], Any]:
    """Parameters to the number of their group."""
    if isinstance(optimizer, ByPath):
        return optimizer.labels
    return lambda params: jax.tree.map(lambda _: 0, params)


def _groups(optimizer: Optimizer) -> list[Optimizer]:
    return [part for _, part in optimizer.rules] if isinstance(optimizer, ByPath) else [optimizer]


def _begun(parts: Parts, number: int, initial: Initial | None) -> Any:
    """The initial state of a repeat: fresh weights of its own seed, or the given ones."""
    recipe: Recipe = dataclasses.replace(parts.recipe, seed=parts.experiment.seed + number)
    create = jax.jit(lambda: create_state(parts.task, recipe, parts.batch_spec), out_shardings=parts.shardings)
    state, warm = create(), parts.experiment.warm_start
    if warm.active:
        state = begin_from(warm, state, parts.shardings)[0]
    return state if initial is None else begin_with(initial, state, parts.shardings)[0]


def _check_task(parts: Parts) -> None:
    """Raise `UsageError` for a task that does not minimise one loss by the experiment's optimizer."""
    kind = type(parts.task).__name__
    if parts.task.players:
        raise UsageError(f"find-lr follows one falling loss, and {kind} has several players; compare short runs")
    if kind == "PerceptronRule":
        raise UsageError(f"{kind} has no optimizer, so it has no learning rate to find")
