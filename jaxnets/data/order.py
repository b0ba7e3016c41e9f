"""Which examples form batch number `step`: index arithmetic without state.

The order is fixed for the whole data set first and split over devices afterwards. So the batches are the same on any number
of devices, and resuming needs one integer.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from jaxnets.core.errors import UsageError


def steps_in(epochs: float, examples: int, batch_size: int) -> int:
    """Steps of so many passes over the training examples; raises `UsageError` unless `epochs` is a positive number."""
    if not 0 < epochs < math.inf:
        raise UsageError(f"epochs is a positive number, got {epochs}")
    return math.ceil(epochs * max(1, examples // max(1, batch_size)))


class Order(Protocol):
    """The rows of the data set for each step."""

    @property
    def batch_size(self) -> int:
        """Rows in each global batch."""

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Example indices `[batch_size]` int32 and their mask `[batch_size]` float32 (0 marks padding)."""


@dataclasses.dataclass(frozen=True)
class Shuffled:
    """Training order: a fresh permutation each epoch, a pure function of (seed, epoch).

    An epoch has `examples // batch_size` batches. The remainder is dropped; it is a different one in each epoch.
    """

    examples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"batch_size is at least 1, got {self.batch_size}")
        if self.batch_size > self.examples:
            raise UsageError(
                f"batch_size {self.batch_size} is larger than the training set ({self.examples} examples); "
                f"set batch_size to {self.examples} or less"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the data."""
        return self.examples // self.batch_size

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `step`, counted from 0 over the whole run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _permutation(self.examples, self.seed, epoch)
        return order[position * self.batch_size : (position + 1) * self.batch_size], _ones(self.batch_size)


@dataclasses.dataclass(frozen=True)
class Onward:
    """Training order from a step on, with another batch size than before; it continues after the examples used before.

    The permutations are those of `Shuffled`. An epoch that has no whole batch left is over.
    """

    examples: int
    batch_size: int
    seed: int
    first: int
    """The step of its first batch."""
    epoch: int
    """The epoch in which it begins."""
    position: int
    """Examples of that epoch that are used already."""

    def place(self, step: int) -> tuple[int, int]:
        """The epoch of batch `step`, and the examples of that epoch before it."""
        count, here = step - self.first, (self.examples - self.position) // self.batch_size
        if count < here:
            return self.epoch, self.position + count * self.batch_size
        epochs, batches = divmod(count - here, self.examples // self.batch_size)
        return self.epoch + 1 + epochs, batches * self.batch_size

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `step`, counted from 0 over the whole run."""
        epoch, position = self.place(step)
        order = _permutation(self.examples, self.seed, epoch)
        return order[position : position + self.batch_size], _ones(self.batch_size)


def staged(examples: int, seed: int, sizes: Sequence[tuple[int, int]]) -> list[Order]:
    """The orders of a run whose batch size changes: `sizes` are pairs of the first step and the batch size from there on."""
    orders: list[Any] = []
    for first, batch_size in sizes:
        Shuffled(examples, batch_size, seed)  # says if a batch is larger than the data
        epoch, position = orders[-1].place(first) if orders else (0, 0)
        orders.append(Onward(examples, batch_size, seed, first, epoch, position))
    return orders


@dataclasses.dataclass(frozen=True)
class Padded:
    """An order whose batches are filled up with masked rows, so that every device gets as many of every micro-batch.

    The masked rows come last. A micro-batch takes every n-th row (`steps/step.py: split`), so they are the last ones of each
    too, and random draws by position stay the same.
    """

    order: Order
    batch_size: int
    """Rows with the masked ones."""

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `step`; the masked rows repeat its first example, so that their values are ordinary."""
        index, mask = self.order.rows(step)
        missing = (0, self.batch_size - len(index))
        return np.pad(index, missing, constant_values=index[0]), np.pad(mask, missing)


@dataclasses.dataclass(frozen=True)
class InOrder:
    """Evaluation order: every example once; the last batch is padded with masked rows."""

    examples: int
    batch_size: int

    @property
    def steps(self) -> int:
        """Batches that cover the data."""
        return -(-self.examples // self.batch_size)

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `step`, in [0, steps)."""
        index = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int32)
        mask = index < self.examples
        return np.where(mask, index, 0).astype(np.int32), mask.astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Among:
    """An order of some rows of the data set, as if there were no others."""

    order: Order
    """Of the numbers 0 to `len(chosen) - 1`."""
    chosen: np.ndarray
    """Row numbers in the data set, int32 `[n]`."""

    @property
    def batch_size(self) -> int:
        """Rows in each global batch."""
        return self.order.batch_size

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `step`."""
        index, mask = self.order.rows(step)
        return self.chosen[index], mask


# A permutation of 60,000 indices takes a millisecond or two, and an epoch uses the same one many times.
@functools.lru_cache(maxsize=4)
def _permutation(examples: int, seed: int, epoch: int) -> np.ndarray:
    # The draws of `permutation`, on half the bytes.
    order = np.arange(examples, dtype=np.int32)
    np.random.default_rng((seed, epoch)).shuffle(order)
    order.setflags(write=False)
    return order


@functools.lru_cache(maxsize=8)
def _ones(count: int) -> np.ndarray:
    ones = np.ones(count, np.float32)
    ones.setflags(write=False)
    return ones
