"""Evaluation: exact means over any number of examples, on any number of devices.

The last batch is filled up with rows whose mask is 0, so every example counts once and the program compiles once. Means
stay (sum, weight) pairs to the end; the batches are added on the host in float64.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.core.types import Batch, Placement, Rows, Variables
from jaxnets.data.feed import Feed, ResidentFeed, StreamFeed, Transform
from jaxnets.data.order import Among, InOrder
from jaxnets.data.preparation import Arrays, Preparation
from jaxnets.data.validation import take
from jaxnets.ops import to_devices
from jaxnets.parallel.collectives import one_at_a_time
from jaxnets.steps.precision import Precision
from jaxnets.tasks.base import Task

# Batches on their way at any time.
AHEAD = 8


class Evaluator:
    """Measures a task on one split."""

    def __init__(
        self,
        task: Task,
        arrays: Arrays,
        preparation: Preparation,
        *,
        batch_size: int,
        placement: Placement,
        precision: Precision,
        resident: bool = True,
    ) -> None:
        self._task, self._precision, self._arrays = task, precision, arrays
        self.examples = len(next(iter(arrays.values())))
        self._order = InOrder(self.examples, batch_size)
        transform = Transform(preparation, task.encode_targets)
        self._about = task.about_split(arrays)
        road = ResidentFeed if resident else StreamFeed
        self._feed: ResidentFeed | StreamFeed = road(arrays, self._order, transform, placement)
        # Replicated on every host, so that each can read them.
        self._metrics = jax.jit(self._measure, out_shardings=placement.whole)

    def _measure(self, variables: Variables, payload: Any) -> Any:
        batch = self._feed.batch(payload, 0, jnp.zeros((), jnp.int32))
        return self._task.metrics(*self._precision.cast(variables, batch))

    def metrics(
        self, variables: Variables, *, rows: np.ndarray | None = None, poll: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """The task's final numbers over the whole split, and `examples`: how many (tokens, nodes) the headline is a mean of.

        Args:
            variables: what is measured.
            rows: numbers of the examples to measure it on, int32; None: all.
            poll: called before each batch; an exception that it raises ends the evaluation.
        """
        order, about, feed = self._order, self._about, cast(Feed, self._feed)
        if rows is not None:
            order = InOrder(len(rows), self._order.batch_size)
            about, feed = self._task.about_split(take(self._arrays, rows)), self._feed.ordered(Among(order, rows))
        read, running = [], deque[Any]()
        for step in range(order.steps):
            poll()
            running.append(one_at_a_time(self._metrics(variables, feed.load(step, 1, 1))))
            # Dispatch some batches ahead, so that the device does not wait; not all, so that the host can still stop.
            if len(running) > AHEAD:
                read.append(jax.device_get(running.popleft()))
        read += jax.device_get(list(running))
        values: dict[str, Any] = {}
        counted = {}
        for name in read[0]:
            if isinstance(read[0][name], Rows):
                values[name] = _joined([batch[name] for batch in read])
                continue
            total = sum(float(batch[name].sum) for batch in read)
            counted[name] = sum(float(batch[name].weight) for batch in read)
            values[name] = total / counted[name] if counted[name] else float("nan")
        by = self._task.headline if self._task.headline in counted else next(iter(counted))
        return {**self._task.derive({**values, **about}), "examples": counted[by]}


def _joined(parts: list[Rows]) -> dict[str, np.ndarray]:
    """The arrays of all batches, without the rows that fill up a batch."""
    kept = [np.asarray(part.mask) > 0 for part in parts]
    names = parts[0].values
    return {
        name: np.concatenate([part.values[name][rows] for part, rows in zip(parts, kept, strict=True)])
        for name in names
    }


class Predictor:
    """The model's outputs for inputs of any number, compiled once."""

    def __init__(
        self,
        task: Task,
        preparation: Preparation,
        *,
        batch_size: int,
        placement: Placement,
        precision: Precision,
    ) -> None:
        self._batch_size, self._placement = batch_size, placement
        self._transform = Transform(preparation)

        def outputs(variables: Variables, rows: Batch) -> Any:
            batch = self._transform.on_device(rows, jnp.zeros((), jnp.int32))
            return task.outputs(*precision.cast(variables, batch))

        self._outputs = jax.jit(outputs, out_shardings=placement.whole)

    def __call__(
        self, variables: Variables, arrays: Arrays, *, decide: Callable[[np.ndarray], np.ndarray] = np.asarray
    ) -> np.ndarray:
        """Outputs `[N, ...]` float32 for raw `inputs` `[N, ...]` and whatever else the task's model takes, in order.

        `decide` is applied to the outputs of each batch, so that those of all examples are never in memory at once.
        """
        size, count = self._batch_size, len(arrays["inputs"])
        said, waiting = np.zeros(0, np.float32), deque[Any]()

        def read(start: int, rows: Any) -> np.ndarray:
            # Straight into one array, a few batches behind the device: the outputs are in memory once.
            rows = decide(jax.device_get(rows)[: count - start])
            whole = said if start else np.zeros((count, *rows.shape[1:]), rows.dtype)
            whole[start : start + len(rows)] = rows
            return whole

        for start in range(0, count, size):
            parts = self._transform.on_host({name: array[start : start + size] for name, array in arrays.items()})
            rows = {name: np.pad(a, [(0, size - len(a))] + [(0, 0)] * (a.ndim - 1)) for name, a in parts.items()}
            waiting.append((start, one_at_a_time(self._outputs(variables, to_devices(rows, self._placement.rows)))))
            if len(waiting) > AHEAD:
                said = read(*waiting.popleft())
        while waiting:
            said = read(*waiting.popleft())
        return said
