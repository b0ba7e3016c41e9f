"""How batches reach the device: two feeds with one protocol.

`load(step, count)` runs on the host and returns a *payload*, a tree of device arrays for `count` steps.
`batch(payload, index, step)` runs inside the compiled program and takes batch `index` from the payload. A training step
works with either feed.

`ResidentFeed` keeps the whole data set on the device and sends only row numbers; gathering rows, scaling and augmentation
run inside the program. `StreamFeed` gathers rows on the host, in a thread, ahead of the device.
"""

import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from jax import Array

from jaxnets.core.types import Batch, Placement
from jaxnets.data.augment import Augment, Augmentation
from jaxnets.data.augment.base import TURNED, turned
from jaxnets.data.facts import facts_of
from jaxnets.data.large import gather, in_memory
from jaxnets.data.order import Order
from jaxnets.data.preparation import Arrays, Preparation
from jaxnets.data.several import arranged
from jaxnets.data.split import WEIGHTS
from jaxnets.ops import to_devices
from jaxnets.ops.random import stream_key
from jaxnets.ops.transfer import own_positions, own_to_devices

Payload = Any
# Time between two checks, while waiting for data, whether to keep waiting.
POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Transform:
    """Turns raw examples into model inputs, partly on the host and partly on the device."""

    preparation: Preparation
    """The statistics and formats of the training data."""
    encode_targets: Callable[[np.ndarray], np.ndarray] = np.asarray
    """Given by the task: turns raw targets into those of its loss. Runs on the host, where numbers have 64 bits."""
    augment: Augmentation = Augment()
    """Applied at every training step; evaluation uses the default, which changes nothing."""
    seed: int = 0
    steps_per_epoch: int = 1
    """Batches in one pass over the training examples; for augmentations that depend on the epoch."""

    def on_host(self, arrays: Arrays) -> Arrays:
        """The arrays that are sent to the device for some raw rows."""
        given = {name: array for name, array in arrays.items() if name not in WEIGHTS}
        if "targets" in given:
            given["targets"] = self.encode_targets(given["targets"])
        sent = self.preparation.on_host(given)
        weights = [array.astype(np.float32) for name, array in arrays.items() if name in WEIGHTS]
        return sent | ({"weights": np.prod(weights, axis=0)} if weights else {})

    def on_device(self, batch: Batch, step: Array) -> Batch:
        """A batch as the model takes it. Augmentation keys depend on (seed, step, row number in the data)."""
        batch = {**batch, "inputs": self.preparation.prepare.on_device(batch["inputs"])}
        if self.augment.active:
            if self.augment.alternates:
                batch = {**batch, TURNED: turned(self.seed, step // self.steps_per_epoch, batch["index"])}
            batch = self.augment.change(batch, stream_key(self.seed, "augment", step), facts_of(self.preparation))
            batch.pop(TURNED, None)
        if self.preparation.several:
            batch = arranged(
                self.preparation.several,
                batch,
                lambda one, array: array if one.array == "inputs" else one.prepare.on_device(array),
            )
        weights = batch.pop("weights", None)
        batch = batch if weights is None else {**batch, "mask": batch["mask"] * weights}
        if self.augment.mixes:
            batch = self.augment.mix(batch, stream_key(self.seed, "mix", step), facts_of(self.preparation))
        return batch


class Feed(Protocol):
    """The protocol of both feeds."""

    def load(self, step: int, count: int, capacity: int, left_out: frozenset[int] = frozenset()) -> Payload:
        """Device arrays for steps `step` to `step + count - 1`. The leading dim is always `capacity`, so one program fits all.

        Batches whose numbers are in `left_out` get a mask of 0, so that their steps change nothing.
        """

    def describe(self, capacity: int) -> Payload:
        """Shapes, dtypes and shardings of what `load` returns; nothing is read or sent, so the devices need not exist."""

    def batch(self, payload: Payload, index: Array | int, step: Array) -> Batch:
        """Batch number `index` of a payload, for global step `step`; traced, pure."""


class ResidentFeed:
    """Keeps the data set on the device; a payload holds row numbers."""

    def __init__(self, arrays: Arrays, order: Order, transform: Transform, placement: Placement) -> None:
        self._order, self._transform, self._placement = order, transform, placement
        self._given = arrays

    def ordered(self, order: Order) -> "Feed":
        """A feed of the same data in another order, with the same arrays on the device."""
        other = copy.copy(self)
        other._order, other._whole = order, self._whole or self
        return other

    def seeded(self, seed: Any) -> "ResidentFeed":
        """A feed of the same data whose augmentation draws by another seed, which may be traced.

        Its batches are those of one run among several, so they are not constrained to lie on the devices of a single one.
        """
        other = copy.copy(self)
        other._transform, other._whole = dataclasses.replace(self._transform, seed=seed), self._whole or self
        other._apart = True
        return other

    @property
    def examples(self) -> int:
        """Rows of the data."""
        return len(next(iter(self._given.values())))

    _whole: "ResidentFeed | None" = None
    """The feed that holds the arrays; None: this one."""
    _apart = False
    """Whether batches stay on the device of the run that uses them, without a sharding constraint."""

    @functools.cached_property
    def _arrays(self) -> dict[str, Array]:
        """The data on the device, sent when they are first needed; each example is a row, so that a TPU, which fills the last
        two dims of an array up to tiles, keeps images without gaps and gathers them without a copy of the whole set."""
        sent = self._transform.on_host(in_memory(self._given))
        return {name: to_devices(_as_rows(a), self._placement.whole) for name, a in sent.items()}

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one example."""
        return {name: a.shape[1:] for name, a in _sent(self._transform, self._given).items()}

    def load(self, step: int, count: int, capacity: int, left_out: frozenset[int] = frozenset()) -> Payload:
        """The resident arrays, row numbers `[capacity, B]` and masks `[capacity, B]`."""
        index, mask = _rows(self._order, step, count, capacity, left_out)
        return (self._whole or self)._arrays, *to_devices((index, mask), self._placement.stacked_rows)

    def describe(self, capacity: int) -> Payload:
        """See `Feed.describe`."""
        whole = self._placement.whole
        sent = _sent(self._transform, self._given)
        one = {name: jax.eval_shape(_as_rows, a) for name, a in sent.items()}
        arrays = {
            n: jax.ShapeDtypeStruct((self.examples, *a.shape[1:]), a.dtype, sharding=whole) for n, a in one.items()
        }
        index, mask = _rows_described(capacity, self._order.batch_size, self._placement.stacked_rows)
        return arrays, index, mask

    def batch(self, payload: Payload, index: Array | int, step: Array) -> Batch:
        """Gather the rows on the device."""
        arrays, rows, mask = payload
        # Row numbers are in range by construction; "promise_in_bounds" removes the bounds check of each gather.
        batch = {name: a.at[rows[index]].get(mode="promise_in_bounds") for name, a in arrays.items()}
        batch = {name: a.reshape(a.shape[0], *self._shapes[name]) for name, a in batch.items()}
        batch = self._transform.on_device({**batch, "mask": mask[index], "index": rows[index]}, step)
        return batch if self._apart else jax.lax.with_sharding_constraint(batch, self._placement.rows)


class StreamFeed:
    """Keeps the data set on the host; a payload holds the batches themselves."""

    def __init__(self, arrays: Arrays, order: Order, transform: Transform, placement: Placement) -> None:
        self._arrays, self._order, self._transform, self._placement = arrays, order, transform, placement

    def ordered(self, order: Order) -> "Feed":
        """A feed of the same data in another order."""
        return StreamFeed(self._arrays, order, self._transform, self._placement)

    @property
    def examples(self) -> int:
        """Rows of the data."""
        return len(next(iter(self._arrays.values())))

    def load(self, step: int, count: int, capacity: int, left_out: frozenset[int] = frozenset()) -> Payload:
        """Gathered rows, `[capacity, B, ...]` for each array. Each process reads those of its own devices alone."""
        index, mask = _rows(self._order, step, count, capacity, left_out)
        place = self._placement.stacked_rows
        own = own_positions(place, index.shape, dim=1)
        rows = index[:count] if own is None else index[:count, own]
        steps = np.repeat(np.arange(step, step + count), rows.shape[1])
        sent = self._transform.on_host(gather(self._arrays, rows.ravel(), (self._transform.seed, steps)))
        batches = {name: a.reshape(*rows.shape, *a.shape[1:]) for name, a in sent.items()}
        if count < capacity:  # steps that are never run, so that one program fits all
            missing = capacity - count
            batches = {n: np.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1)) for n, a in batches.items()}
        return own_to_devices(batches, place, own, index.shape) | to_devices({"mask": mask, "index": index}, place)

    def describe(self, capacity: int) -> Payload:
        """See `Feed.describe`."""
        place, rows = self._placement.stacked_rows, self._order.batch_size
        index, mask = _rows_described(capacity, rows, place)
        sent = _sent(self._transform, self._arrays)
        batches = {
            n: jax.ShapeDtypeStruct((capacity, rows, *a.shape[1:]), a.dtype, sharding=place) for n, a in sent.items()
        }
        return batches | {"mask": mask, "index": index}

    def batch(self, payload: Payload, index: Array | int, step: Array) -> Batch:
        """Pick one batch of the stack."""
        batch = self._transform.on_device({name: stack[index] for name, stack in payload.items()}, step)
        return jax.lax.with_sharding_constraint(batch, self._placement.rows)


def _as_rows(array: Any) -> Any:
    """`[N, ...]` to `[N, numbers of an example]`; `[N]` is unchanged."""
    return array.reshape(array.shape[0], -1) if array.ndim > 2 else array


def _sent(transform: Transform, arrays: Arrays) -> dict[str, Any]:
    """The arrays that go to the device for one raw row, in the dtypes that they have there."""
    sent = transform.on_host({name: array[:1] for name, array in arrays.items()})
    return jax.eval_shape(lambda tree: tree, sent)


def _rows_described(capacity: int, rows: int, place: Any) -> tuple[Any, Any]:
    """Row numbers and masks of the steps of a payload, as shapes."""
    kinds = (np.int32, np.float32)
    index, mask = (jax.ShapeDtypeStruct((capacity, rows), dtype, sharding=place) for dtype in kinds)
    return index, mask


def _rows(
    order: Order, step: int, count: int, capacity: int, left_out: frozenset[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Indices and masks of `count` steps, `[capacity, B]`; steps past `count` are never run."""
    index = np.zeros((capacity, order.batch_size), np.int32)
    mask = np.zeros((capacity, order.batch_size), np.float32)
    for offset in range(count):
        index[offset], mask[offset] = order.rows(step + offset)
        if step + offset in left_out:
            mask[offset] = 0.0
    return index, mask


class Call(Protocol):
    """One dispatch of a plan: steps `first` to `first + count - 1`."""

    @property
    def first(self) -> int:
        """The first step: the number of updates done before."""

    @property
    def count(self) -> int:
        """The number of steps."""


C = TypeVar("C", bound=Call)


def prefetch(
    feed: Feed,
    plan: Iterable[C],
    *,
    capacity: int,
    depth: int,
    left_out: frozenset[int] = frozenset(),
    poll: Callable[[], None] = lambda: None,
) -> Generator[tuple[C, Payload]]:
    """Yield `(call, payload)` for each call of a plan, loading up to `depth` payloads ahead of the consumer.

    One worker thread loads in plan order, so the batches do not depend on timing. `depth=0` loads in the caller's thread.
    `poll` is called before each payload and repeatedly while waiting for one; an exception from it ends the wait.
    """
    if depth == 0:
        for call in plan:
            poll()
            yield call, feed.load(call.first, call.count, capacity, left_out)
        return
    waiting: deque[tuple[C, concurrent.futures.Future[Payload]]] = deque()
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="jaxnets-data")
    try:
        for call in plan:
            waiting.append((call, pool.submit(feed.load, call.first, call.count, capacity, left_out)))
            if len(waiting) > depth:
                yield _next(waiting, poll)
        while waiting:
            yield _next(waiting, poll)
    finally:
        # Do not wait: the caller may be stopping because a load hangs.
        pool.shutdown(wait=False, cancel_futures=True)


def _next(waiting: deque[Any], poll: Callable[[], None]) -> tuple[Any, Payload]:
    call, payload = waiting.popleft()
    while True:
        poll()
        with contextlib.suppress(concurrent.futures.TimeoutError):
            return call, payload.result(timeout=POLL_SECONDS)
        if payload.done():  # the load itself raised a TimeoutError
            return call, payload.result()
