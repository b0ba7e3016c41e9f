"""Several runs of one experiment in one compiled program: their states stacked on a leading axis, the step mapped over it.

The runs may differ in the seed and in plain numbers of the optimizer, such as the learning rate. These enter the program as
arguments. While the step is traced, a traced number replaces the field's value, so the optimizer computes the same as with a
constant. Each run has the batches of its own seed, by row numbers into the same data on the device, so runs may also learn
from different examples of them.

One program is compiled once, and one operation on a stack of small arrays takes much less time than many on small ones. On
several devices the stack is split over them: each device trains some of the runs, without communication. The last run is
repeated until their number is divisible.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets.core.types import Batch, Variables
from jaxnets.data.feed import Payload, ResidentFeed
from jaxnets.data.order import Among, Order, Padded, Shuffled
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

# The exceptions of a trace in which a traced number decides the computation.
UNTRACEABLE = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, TypeError, ValueError)
# The mesh axis over which the runs are spread.
RUNS = "runs"


def why_apart(parts: Parts) -> str:
    """The reason why runs of these parts cannot share a program; "": they can."""
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

    def __init__(
        self,
        parts: Parts,
        changes: Sequence[Mapping[str, Any]],
        rows: Sequence[np.ndarray | None] = (),
        *,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Trace the step of all runs.

        Args:
            parts: of the experiment that they have in common, for which `why_apart` is "".
            changes: for each run its seed and its numbers of the optimizer, by dotted name; the same names for each.
            rows: for each run the numbers of the training examples that it learns from, int32, None for all; (): all.
            devices: the runs are spread over these, or as many of them as there are runs; None: that of the parts.

        Raises:
            UNTRACEABLE: a number cannot be an argument of the program.
        """
        self.parts, self._changes, self._devices = parts, list(changes), devices
        self._rows: list[np.ndarray | None] = list(rows) or [None] * len(self._changes)
        chosen = [*(devices or parts.mesh.devices.flat)][: len(changes)]
        self._mesh = jax.make_mesh((len(chosen),), (RUNS,), axis_types=(AxisType.Auto,), devices=chosen)
        more = -len(changes) % len(chosen)
        filled = [*changes, *[changes[-1]] * more]
        self._seeds = np.asarray([one.get(SEED, parts.experiment.seed) for one in filled], np.uint32)
        names = [name for name in changes[0] if name != SEED]
        self._numbers = {name: np.asarray([one[name] for one in filled], np.float32) for name in names}
        self._step_done, self._state = 0, None
        with jax.set_mesh(self._mesh):
            learned = [*self._rows, *self._rows[-1:] * more]
            feed = _StackedFeed(parts, self._seeds, self._numbers, learned, self._mesh)
            # In a stack of runs a branch computes both sides, so the step has no measurements at intervals.
            step = jax.jit(self._spread(_stacked_step(parts, self._recipe), (P(RUNS), _StackedFeed.SPECS)), inline=True)
            self._create = jax.jit(
                self._spread(self._created, (P(RUNS), P(RUNS))),
                compiler_options=quick_compilation(chosen[0].platform),
            )
            state = jax.eval_shape(self._create, self._seeds, self._numbers)
            batch = jax.eval_shape(lambda payload: feed.batch(payload, 0, jnp.zeros((), jnp.int32)), feed.describe(1))
            many = parts.experiment.steps_per_call or choose_steps_per_call(step, state, batch)
            placed = jax.tree.map(lambda _: NamedSharding(self._mesh, P(RUNS)), state)
            self._program = Program(step, feed, steps_per_call=many, state_shardings=placed)

    def _spread(self, function: Callable[..., Any], specs: Any) -> Callable[..., Any]:
        """A function of stacks of runs, called on each device for its part of them."""
        # Every value belongs to one device, and `check_vma` would ask the loops inside to say so.
        return jax.shard_map(function, mesh=self._mesh, in_specs=specs, out_specs=P(RUNS), check_vma=False)

    def _created(self, seeds: Array, numbers: Mapping[str, Array]) -> TrainState:
        """The first states of runs."""
        parts = self.parts
        states: TrainState = jax.lax.map(
            lambda one: create_state(parts.task, self._recipe(*one), parts.batch_spec), (seeds, numbers)
        )
        return states

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
        with jax.set_mesh(self._mesh):
            if self._state is None:
                self._state = self._create(self._seeds, self._numbers)
            if stop > self._step_done:
                # A run with non-finite numbers is not updated any more, and its counter shows it; the others continue.
                watch = Watch(on_nonfinite="skip")
                self._state = fit(self._program, self._state, start=self._step_done, stop=stop, watch=watch)
                self._step_done = stop

    def state(self, number: int) -> TrainState:
        """The state of one run, with the shardings of its parts."""
        with jax.set_mesh(self._mesh):
            picked = jax.tree.map(lambda a: a[number], self._state)
        one: TrainState = jax.device_put(picked, placement(self.parts.mesh).whole)
        return one

    def variables(self) -> Iterator[Variables | str]:
        """For each run its variables, or why it failed; one after the other, since each is a copy."""
        for number in range(len(self._changes)):
            with jax.set_mesh(self.parts.mesh):
                state = self.state(number)
            skipped = int(state.guard["skipped"])
            halts = self.parts.experiment.on_nonfinite == "halt"
            yield "a loss or gradient was not finite" if skipped and halts else state.best_variables

    def kept(self, chosen: Sequence[int]) -> "Together":
        """Some of the runs, which continue from their current state."""
        own = [self._rows[number] for number in chosen]
        other = Together(self.parts, [self._changes[number] for number in chosen], own, devices=self._devices)
        places = np.asarray([*chosen, *[chosen[-1]] * (len(other._seeds) - len(chosen))])
        with jax.set_mesh(self._mesh):
            picked = jax.tree.map(lambda a: a[places], self._state)
        other._state = jax.device_put(picked, NamedSharding(other._mesh, P(RUNS)))
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
    """A feed (`data.feed.Feed`) of row numbers for several runs over the same data, which every device holds."""

    # How its batches are split over the devices.
    SPECS: ClassVar = {"arrays": P(), "rows": P(RUNS), "mask": P(RUNS), "seeds": P(RUNS), "numbers": P(RUNS)}

    def __init__(
        self,
        parts: Parts,
        seeds: np.ndarray,
        numbers: Mapping[str, np.ndarray],
        chosen: Sequence[np.ndarray | None],
        mesh: Mesh,
    ) -> None:
        experiment = parts.experiment
        self._feed, self._mesh = parts.feed, mesh
        self._seeds, self._numbers = seeds, dict(numbers)
        self.rows = parts.batch_spec["mask"].shape[0]
        total, size = parts.dataset.card.examples["train"], experiment.batch_size
        # Runs with the same seed and the same number of examples have the same examples in the same order.
        alike: dict[tuple[int, int], list[int]] = {}
        for run, (seed, own) in enumerate(zip(seeds, chosen, strict=True)):
            alike.setdefault((int(seed), total if own is None else len(own)), []).append(run)
        self._orders: list[tuple[Order, list[int]]] = []
        for (seed, examples), runs in alike.items():
            order: Order = Shuffled(examples, size, seed)
            if (own := chosen[runs[0]]) is not None:
                order = Among(order, own)
            self._orders.append((order if self.rows == size else Padded(order, self.rows), runs))

    def load(self, step: int, count: int, capacity: int, left_out: frozenset[int] = frozenset()) -> Payload:
        """The arrays, row numbers and masks `[capacity, R, B]`, seeds and numbers `[R]`."""
        del left_out  # no run goes back, so none leaves out a batch
        shape = (capacity, len(self._seeds), self.rows)
        index, mask = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        for order, runs in self._orders:  # one after the other: an epoch's order is made once
            for offset in range(count):
                index[offset, runs], mask[offset, runs] = order.rows(step + offset)
        rows = to_devices((index, mask), NamedSharding(self._mesh, P(None, RUNS)))
        return self._arrays, *rows, *to_devices((self._seeds, self._numbers), NamedSharding(self._mesh, P(RUNS)))

    @functools.cached_property
    def _arrays(self) -> Any:
        """The data on every device."""
        return jax.device_put(self._feed.load(0, 0, 1)[0], NamedSharding(self._mesh, P()))

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
