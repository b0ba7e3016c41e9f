"""What the checks look at: a run before its first step, a few examples of it, and the programs that several checks share.

The programs are compiled at their first use, without optimisation on the CPU: each runs a few times only. All arithmetic is
in float32, whatever the run computes in; `derivatives` also calls them in float64.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.types import Batch, Mean, Variables
from jaxnets.data.feed import Transform
from jaxnets.data.large import gather
from jaxnets.ops.beyond_promise import quick_compilation
from jaxnets.ops.random import stream_key, with_keys
from jaxnets.preflight.updates import change, scaled
from jaxnets.runs.build import Parts
from jaxnets.steps.precision import Precision
from jaxnets.steps.sown import with_sown
from jaxnets.steps.state import TrainState
from jaxnets.tasks.base import Task
from jaxnets.tasks.predicted import predicted_kind, why_no_loss
from jaxnets.tasks.semi_supervised import LABELLED

# Steps in one dispatch when a few examples are learned, and the most of them.
CHUNK, LONGEST = 25, 300
# Examples that the checks of the data read of each split.
SAMPLE = 2000


@dataclasses.dataclass(frozen=True)
class Learning:
    """Some steps on the same few examples."""

    losses: np.ndarray
    """The training loss before each step, `[steps]`."""
    variables: Variables
    """After the last step."""
    scale: float
    """What every update was multiplied by."""
    out_of_time: bool
    """Whether it was ended by the clock."""
    first_update: float
    """The share of its norm by which the first update changed the middle one of the layers."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A run that has not begun."""

    parts: Parts
    state: TrainState
    """At step 0."""
    batch: Batch
    """A few prepared training examples, none of them masked, not augmented."""
    other: Batch
    """As many others."""
    drawn: dict[str, np.ndarray]
    """Raw training examples for the controls; the first ones are those of `batch` and of `other`."""
    drawn_rows: np.ndarray
    """Their row numbers in the training split."""
    seconds: float
    """Most time to spend on learning a few examples, without compilation."""
    given_weights: bool = False
    """Whether the weights at step 0 are those of a caller or of another run."""

    @property
    def task(self) -> Task:
        """The bound task."""
        return self.parts.task

    @property
    def inner(self) -> Task:
        """The task under a loss or metrics of the user's."""
        inner: Task = getattr(self.task, "inner", self.task)
        return inner

    @property
    def kind(self) -> str:
        """Kind of the targets, where the task predicts them; "" where it does something else with the data."""
        return predicted_kind(self.task, self.parts.dataset.card.target_kind)

    @property
    def by_gradient(self) -> bool:
        """Whether the parameters follow the gradient of `task.loss` of a batch of the data."""
        return not why_no_loss(self.task)

    @property
    def rows(self) -> int:
        """Examples in `batch`."""
        return int(self.batch["mask"].shape[0])

    @property
    def variables(self) -> Variables:
        """At step 0."""
        return self.state.variables

    @functools.cached_property
    def moved(self) -> Variables:
        """Variables after a few examples were learned, where no layer is zero any more; those at step 0 if that diverged."""
        learned = self.learned
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(learned.variables)))
        return learned.variables if finite else self.variables

    def jit(self, function: Callable[..., Any], *static: int) -> Callable[..., Any]:
        """A program that is compiled quickly."""
        platform = self.parts.mesh.devices.flat[0].platform
        return jax.jit(function, static_argnums=static, compiler_options=quick_compilation(platform))

    @functools.cached_property
    def answers(self) -> bool:
        """Whether the task calls its model on a batch as `task.apply` does."""
        if self.task.players:
            return False
        try:
            shape = jax.eval_shape(lambda: self.inner.apply(self.variables, self.batch, None)[0])
        except Exception:  # whatever a model raises for inputs that are not for it
            return False
        return len(shape.shape) > 0

    @functools.cached_property
    def _outputs(self) -> Callable[..., Any]:
        """The program of `outputs`."""

        def outputs(variables: Variables, batch: Batch, train: bool, key: Array) -> Any:
            if not self.answers:
                return self.task.outputs(variables, batch)
            return self.inner.apply(variables, with_keys(batch, key), key if train else None)[0]

        return self.jit(outputs, 2)

    def outputs(self, variables: Variables, batch: Batch, *, train: bool = False, seed: int = 0) -> np.ndarray:
        """What the model gives for a batch, `[B, ...]` float32 (in training only where the task `answers`)."""
        return np.asarray(self._outputs(variables, batch, train, stream_key(seed, "model", 0)), np.float32)

    def mean_loss(self, params: Any, model_state: Variables, batch: Batch, train: bool, key: Array) -> Mean:
        """The loss of a batch with what the module sows, undivided; to be traced."""
        batch = with_keys(batch, stream_key(0, "examples", 0))
        return with_sown(*self.task.loss({"params": params, **model_state}, batch, key, train))[0]

    @functools.cached_property
    def _loss(self) -> Callable[..., Any]:
        return self.jit(self.mean_loss, 3)

    def loss(self, variables: Variables, batch: Batch, *, train: bool = False) -> tuple[float, float]:
        """The loss of a batch as (sum, weight)."""
        state = {name: value for name, value in variables.items() if name != "params"}
        mean = self._loss(variables["params"], state, batch, train, stream_key(0, "model", 0))
        return float(mean.sum), float(mean.weight)

    @functools.cached_property
    def _slope(self) -> Callable[..., Any]:
        def value(params: Any, model_state: Variables, batch: Batch) -> Array:
            mean = self.mean_loss(params, model_state, batch, True, stream_key(0, "model", 0))
            return jnp.asarray(mean.sum / jnp.maximum(mean.weight, 1e-30))

        return self.jit(jax.value_and_grad(value))

    def slope(self, variables: Variables, batch: Batch | None = None) -> tuple[float, Any]:
        """The training loss of the batch (or of another one) and its gradient for the parameters."""
        state = {name: value for name, value in variables.items() if name != "params"}
        value, gradient = self._slope(variables["params"], state, self.batch if batch is None else batch)
        return float(value), gradient

    @functools.cached_property
    def gradient(self) -> Any:
        """At step 0."""
        return self.slope(self.variables)[1]

    @functools.cached_property
    def later_gradient(self) -> Any:
        """Of the variables in `moved`."""
        return self.slope(self.moved)[1]

    @functools.cached_property
    def pool(self) -> Batch:
        """`drawn`, prepared."""
        return prepare(self.parts, self.drawn, self.drawn_rows)

    @functools.cached_property
    def _chunk(self) -> Callable[..., Any]:
        """Some steps of the run's own optimizer on rows of `pool`, at the highest rate of its schedule."""
        experiment, recipe = self.parts.experiment, self.parts.recipe
        rates = experiment.optimizer.rates(experiment.total_steps, experiment.total_steps)
        peak = None if rates is None else int(np.argmax(rates))

        def chunk(state: TrainState, pool: Batch, rows: Array, scale: Array, at: Array) -> tuple[TrainState, Any]:
            def one(state: TrainState, turn_rows: tuple[Array, Array]) -> tuple[TrainState, tuple[Array, Array]]:
                turn, picked = turn_rows
                batch = jax.tree.map(lambda array: array[picked], pool)
                # Every step has the number of the one with the highest rate; so that its random draws are new, another seed.
                seed: Any = turn
                optimizer = scaled(recipe.optimizer, scale)
                changed = dataclasses.replace(recipe, optimizer=optimizer, precision=Precision(), seed=seed)
                number = turn if peak is None else jnp.full_like(state.step, peak)
                new, metrics = self.task.make_step(changed)(dataclasses.replace(state, step=number), batch)
                mean = metrics.get("loss", next(iter(metrics.values())))
                return new, (mean.sum / jnp.maximum(mean.weight, 1e-30), change(state.params, new.params))

            return jax.lax.scan(one, state, (at + jnp.arange(CHUNK, dtype=jnp.int32), rows))

        return self.jit(chunk)

    def learn(
        self, scale: float = 1.0, *, steps: int = LONGEST, seconds: float | None = None, pool: Batch | None = None
    ) -> Learning:
        """Learn until the loss is near 0, or `steps` are done, or the time is up.

        Args:
            scale: what every update of the run's optimizer is multiplied by.
            steps: the most.
            seconds: the most, not counting compilation.
            pool: examples shaped like `Subject.pool`, learned in random batches; None: `batch` at every step.
        """
        order = self._order(steps, shuffled=pool is not None)
        state, losses, seconds = self.state, np.zeros(0), self.seconds if seconds is None else seconds
        began, spent, update = (time.perf_counter() if "learned" in vars(self) else 0.0), False, 0.0
        while len(losses) < steps and not spent:
            done = len(losses)
            rows, given = order[done : done + CHUNK], self.pool if pool is None else pool
            state, (more, changes) = self._chunk(state, given, rows, np.float32(scale), np.int32(done))
            update = update or float(changes[0])
            losses = np.concatenate([losses, np.asarray(more, np.float64)])
            began = began or time.perf_counter()  # the first one is compiled, unless `learned` did it
            spent = time.perf_counter() - began > seconds
            last = losses[-5:].mean()
            if not np.isfinite(last) or abs(last - self.floor) < 0.01 * abs(losses[0] - self.floor):
                break
        return Learning(losses, state.variables, scale, spent and len(losses) < steps, update)

    def _order(self, steps: int, *, shuffled: bool) -> np.ndarray:
        """Which rows of the pool each step sees, `[steps, rows]`, in whole chunks: the first ones, or epochs."""
        count, held = -(-steps // CHUNK) * CHUNK, len(self.drawn_rows)
        if not shuffled:
            return np.tile(np.arange(self.rows, dtype=np.int32), (count, 1))
        rng = np.random.default_rng(0)
        epochs = [
            rng.permutation(held)[: held // self.rows * self.rows] for _ in range(-(-count * self.rows // held) * 2)
        ]
        return np.concatenate(epochs)[: count * self.rows].reshape(count, self.rows).astype(np.int32)

    @functools.cached_property
    def learned(self) -> Learning:
        """The batch learned at the run's own rate."""
        return self.learn()

    @property
    def floor(self) -> float:
        """The smallest training loss there can be: above 0 with label smoothing."""
        smooth = float(getattr(self.inner, "label_smoothing", 0.0))
        count = len(self.parts.dataset.card.class_names)
        if not smooth or count < 2:
            return 0.0
        rest = smooth / count
        top = 1 - smooth + rest
        return float(-top * np.log(top) - (count - 1) * rest * np.log(rest))

    @functools.cached_property
    def layers(self) -> dict[str, nn.Module]:
        """The modules of the model by path, in the order of their first call; {} where it is no Linen module."""
        found: dict[str, nn.Module] = {}

        def note_module(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name == "__call__":
                found.setdefault("/".join(context.module.path), context.module)
            return next_call(*args, **kwargs)

        if self.answers:
            with nn.intercept_methods(note_module):
                jax.eval_shape(lambda key: self.inner.apply(self.variables, self.batch, key)[0], jax.random.key(0))
        return found

    @functools.cached_property
    def samples(self) -> dict[str, dict[str, np.ndarray]]:
        """Raw rows of training and test whose targets are known, at most `SAMPLE` of each, evenly spaced in its order."""
        found = {}
        for split in ("train", "test"):
            known = known_rows(arrays := getattr(self.parts.dataset, split))
            places = np.linspace(0, len(known) - 1, min(SAMPLE, len(known))).astype(int)
            found[split] = gather(arrays, known[np.unique(places)])
        return found

    @functools.cached_property
    def prepared(self) -> dict[str, dict[str, Any]]:
        """`samples` as the model takes them, on the host."""
        found = {split: prepare(self.parts, raw, np.arange(len(raw["targets"]))) for split, raw in self.samples.items()}
        return {split: jax.tree.map(np.asarray, batch) for split, batch in found.items()}


def known_rows(arrays: Any) -> np.ndarray:
    """The rows whose targets are known: all of them, but for data with few labels (`data.FewLabels`)."""
    known = arrays.get(LABELLED)
    return np.arange(len(arrays["targets"])) if known is None else np.flatnonzero(known)


def prepare(parts: Parts, arrays: dict[str, np.ndarray], rows: np.ndarray) -> Batch:
    """Raw examples as a batch for the task, each of weight 1, not augmented."""
    transform = Transform(parts.dataset.preparation, parts.task.encode_targets)
    ones = np.ones(len(rows), np.float32)
    sent = {**transform.on_host(arrays), "mask": ones, "index": rows.astype(np.int32)}
    batch = transform.on_device(jax.tree.map(jnp.asarray, sent), jnp.zeros((), jnp.int32))
    return {**batch, "mask": jnp.asarray(ones)}
