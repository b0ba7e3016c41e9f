"""Several runs of one experiment in one compiled program: their states stacked on a leading axis, the step mapped over it.

The runs may differ in the seed and in plain numbers of the optimizer, such as the learning rate. These enter the program as
arguments. A number takes the place of the field that holds it while the step is traced, so the optimizer computes with it what
it computes with a constant. Each run has the batches of its own seed, by row numbers into the same data on the device.

One program is compiled once, and one operation on a stack of small arrays takes much less time than many on small ones.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.types import Batch
from jaxnets.data.feed import Payload, ResidentFeed
from jaxnets.data.order import Order, Padded, Shuffled
from jaxnets.evidence.trials import SEED, with_numbers
from jaxnets.ops import to_devices
from jaxnets.ops.beyond_promise import quick_compilation
from jaxnets.optim.schedules import with_clock
from jaxnets.parallel.mesh import placement
from jaxnets.runs.build import Parts, clock_of
from jaxnets.steps.health import Health
from jaxnets.steps.local import whole_step
from jaxnets.steps.recipe import Metrics, Recipe
from jaxnets.steps.state import TrainState
from jaxnets.training.initial import create_state
from jaxnets.training.loop import Watch, fit
from jaxnets.training.program import Program, choose_steps_per_call

# What a step of a traced number raises where the number decides what is computed.
UNTRACEABLE = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, TypeError, ValueError)


def why_apart(parts: Parts) -> str:
    """Why runs of these parts cannot share a program; "": they can."""
    experiment = parts.experiment
    reasons = {
        "they use several devices": parts.mesh.size > 1,
        "their data do not stay on the device": not isinstance(parts.feed, ResidentFeed),
        "their batches or inputs grow": not isinstance(parts.program, Program),
        f"{type(parts.task).__name__} has several players": bool(parts.task.players),
        "they choose by evaluations": experiment.chooses,
        "they begin with other weights": experiment.warm_start.active,
        "they are copies that are averaged": experiment.local.active,
        "they may go back to a checkpoint": bool(experiment.guard.spike) or experiment.on_nonfinite == "rollback",
        "float16 scales their losses": experiment.precision.scales_loss,
        "their optimizer state is on the host": experiment.mesh.offload == "optimizer",
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


class Together:
    """Runs that are trained in one program."""

    def __init__(self, parts: Parts, changes: Sequence[Mapping[str, Any]]) -> None:
        """Trace the step of all runs.

        Args:
            parts: of the experiment that they have in common, for which `why_apart` is "".
            changes: for each run its seed and its numbers of the optimizer, by dotted name; the same names for each.

        Raises:
            UNTRACEABLE: a number cannot be an argument of the program.
        """
        self.parts, self._changes = parts, list(changes)
        self._seeds = np.asarray([one.get(SEED, parts.experiment.seed) for one in changes], np.uint32)
        names = [name for name in changes[0] if name != SEED]
        self._numbers = {name: np.asarray([one[name] for one in changes], np.float32) for name in names}
        self._step_done, self._state = 0, None
        with jax.set_mesh(parts.mesh):
            feed = _StackedFeed(parts, self._seeds, self._numbers)
            # In a stack of runs a branch computes both sides, so nothing that is measured now and then is in the step.
            step = jax.jit(_stacked_step(parts, self._recipe), inline=True)
            self._create = jax.jit(
                lambda seeds, numbers: jax.lax.map(
                    lambda one: create_state(parts.task, self._recipe(*one), parts.batch_spec), (seeds, numbers)
                ),
                compiler_options=quick_compilation(parts.mesh.devices.flat[0].platform),
            )
            state = jax.eval_shape(self._create, self._seeds, self._numbers)
            batch = jax.eval_shape(lambda payload: feed.batch(payload, 0, jnp.zeros((), jnp.int32)), feed.describe(1))
            many = parts.experiment.steps_per_call or choose_steps_per_call(step, state, batch)
            self._program = Program(step, feed, steps_per_call=many)

    def _recipe(self, seed: Any, numbers: Mapping[str, Any]) -> Recipe:
        """The recipe of one run; its seed and numbers may be traced."""
        experiment, recipe = self.parts.experiment, self.parts.recipe
        recipe = dataclasses.replace(recipe, seed=seed, health=Health(), gradients=None)
        if not numbers:
            return recipe
        clocked = with_clock(experiment.optimizer, clock_of(experiment, self.parts.dataset))
        own = {name.removeprefix("optimizer."): value for name, value in numbers.items()}
        optimizer = with_numbers(clocked, own)
        steps = experiment.total_steps
        return dataclasses.replace(recipe, optimizer=optimizer.build(steps), rate=optimizer.rate_at(steps))

    def advance(self, stop: int) -> None:
        """Train every run up to a step."""
        with jax.set_mesh(self.parts.mesh):
            if self._state is None:
                self._state = self._create(self._seeds, self._numbers)
            if stop > self._step_done:
                # A run whose numbers are not finite stands still, and is found by its counter; the others go on.
                watch = Watch(on_nonfinite="skip")
                self._state = fit(self._program, self._state, start=self._step_done, stop=stop, watch=watch)
                self._step_done = stop

    def state(self, number: int) -> TrainState:
        """The state of one run."""
        one: TrainState = jax.tree.map(lambda a: a[number], self._state)
        return one

    def measured(self) -> list[dict[str, float] | str]:
        """For each run its metrics on the split that is watched, or why it failed."""
        found: list[dict[str, float] | str] = []
        evaluator = self.parts.watched[1]
        with jax.set_mesh(self.parts.mesh):
            for number in range(len(self._changes)):
                state = self.state(number)
                skipped = int(state.guard["skipped"])
                if skipped and self.parts.experiment.on_nonfinite == "halt":
                    found.append("a loss or gradient was not finite")
                else:
                    found.append(evaluator.metrics(state.best_variables))
        return found

    def kept(self, chosen: Sequence[int]) -> "Together":
        """Some of the runs, which go on from where they are."""
        other = Together(self.parts, [self._changes[number] for number in chosen])
        rows = np.asarray(chosen)
        other._state = jax.tree.map(lambda a: a[rows], self._state)
        other._step_done = self._step_done
        return other


def _stacked_step(parts: Parts, recipe: Callable[[Any, Any], Recipe]) -> Callable[[Any, Batch], tuple[Any, Metrics]]:
    """The step of all runs, from their stacked states and what `_StackedFeed` gives."""
    feed = parts.feed
    assert isinstance(feed, ResidentFeed)

    def one(arrays: Any, state: TrainState, rows: Array, mask: Array, seed: Array, numbers: Any) -> Any:
        batch = feed.seeded(seed).batch((arrays, rows[None], mask[None]), 0, state.step)
        return whole_step(parts.task, recipe(seed, numbers))(state, batch)

    def step(states: Any, batch: Batch) -> tuple[Any, Metrics]:
        given: Any = (batch["rows"], batch["mask"], batch["seeds"], batch["numbers"])
        return jax.vmap(one, in_axes=(None, 0, 0, 0, 0, 0))(batch["arrays"], states, *given)

    return step


class _StackedFeed:
    """A feed (`data.feed.Feed`) of row numbers for several runs over the same data on the device."""

    def __init__(self, parts: Parts, seeds: np.ndarray, numbers: Mapping[str, np.ndarray]) -> None:
        experiment = parts.experiment
        self._feed, self._place = parts.feed, placement(parts.mesh).whole
        self._seeds, self._numbers = seeds, dict(numbers)
        self.rows = parts.batch_spec["mask"].shape[0]
        examples, size = parts.dataset.card.examples["train"], experiment.batch_size
        self._orders: dict[int, Order] = {int(seed): Shuffled(examples, size, int(seed)) for seed in seeds}
        if self.rows != size:
            self._orders = {seed: Padded(order, self.rows) for seed, order in self._orders.items()}

    def load(self, step: int, count: int, capacity: int, left_out: frozenset[int] = frozenset()) -> Payload:
        """The arrays, row numbers and masks `[capacity, R, B]`, seeds and numbers `[R]`."""
        del left_out  # no run goes back, so none leaves out a batch
        shape = (capacity, len(self._seeds), self.rows)
        index, mask = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        for seed, order in self._orders.items():  # one after the other: an epoch's order is made once
            runs = np.flatnonzero(self._seeds == seed)
            for offset in range(count):
                index[offset, runs], mask[offset, runs] = order.rows(step + offset)
        arrays = self._feed.load(0, 0, 1)[0]
        return arrays, *to_devices((index, mask, self._seeds, self._numbers), self._place)

    def describe(self, capacity: int) -> Payload:
        """See `Feed.describe`."""
        shape = (capacity, len(self._seeds), self.rows)
        own = jax.eval_shape(lambda: (jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)))
        rest = jax.eval_shape(lambda tree: tree, (self._seeds, self._numbers))
        return self._feed.describe(1)[0], *own, *rest

    def batch(self, payload: Payload, index: Array | int, step: Array) -> Batch:
        """Row numbers of one step, with all that a run needs to gather its batch."""
        del step
        arrays, rows, mask, seeds, numbers = payload
        return {"arrays": arrays, "rows": rows[index], "mask": mask[index], "seeds": seeds, "numbers": numbers}
