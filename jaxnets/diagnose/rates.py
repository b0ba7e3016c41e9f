"""The learning-rate range test: the loss while the rate grows from step to step, and the rate to train with.

One short training from the same weights, in which each step has a larger learning rate than the one before (Smith 2017,
arXiv:1506.01186). At first the rate is too small and the loss stays; then it falls; then it explodes. Everything is pure: the
rates are arguments of one compiled scan, and the given state is not changed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import UsageError

# `(state, batch, rate) -> (state, loss of the batch before the update)`.
RateStep = Callable[[Any, Any, Array], tuple[Any, Array]]
# Steps of the Gaussian that smooths the losses.
SMOOTHING = 2.0
# The test ends if the loss of a batch is above that of the first one by this many times its size, or by this many times the
# fall so far.
EXPLODED = 3.0
# The pick is the rate of the lowest loss, divided by this; see `RateTest.picks`.
BELOW_TURN = 4.0


def growing_rates(low: float = 1e-7, high: float = 10.0, steps: int = 150) -> np.ndarray:
    """Rates from `low` to `high` with a constant ratio, float32 `[steps]`; raises `UsageError` unless 0 < low < high."""
    if not 0 < low < high < np.inf:
        raise UsageError(f"rates grow from low to high, 0 < low < high; got {low} and {high}")
    if steps < 10:
        raise UsageError(f"a range test has at least 10 steps, got {steps}")
    return np.geomspace(low, high, steps).astype(np.float32)


def losses_by_rate(
    step: RateStep,
    state: Any,
    batches: Any,
    rates: Array,
    *,
    take: Callable[[Any, Array], Any] = lambda batches, i: jax.tree.map(lambda a: a[i], batches),
) -> Array:
    """The loss of each step of a range test, float32 `[T]`; infinite from the step on at which it exploded.

    Traceable: `jax.jit(functools.partial(losses_by_rate, step))` compiles once for any state, batches and rates.

    Args:
        step: one update at a given rate; the loss is that of the weights before it.
        state: the state to begin with; it is not changed.
        batches: a tree of arrays `[T, ...]`, or anything that `take` understands.
        rates: `[T]`, or `[T, G]` where `step` takes a rate for each of G groups.
        take: batch number i of the batches.
    """

    def body(carry: Any, x: tuple[Array, Array]) -> tuple[Any, Array]:
        state, going, first, least = carry
        index, rate = x

        def go(state: Any) -> tuple[Any, Array]:
            new, loss = step(state, take(batches, index), rate)
            return new, jnp.asarray(loss, jnp.float32)

        # After the explosion a branch does nothing, which is fast.
        state, loss = jax.lax.cond(going, go, lambda state: (state, jnp.asarray(jnp.inf, jnp.float32)), state)
        first = jnp.where(index == 0, loss, first)
        least = jnp.minimum(least, loss)
        going &= jnp.isfinite(loss) & (loss - first <= EXPLODED * jnp.maximum(jnp.abs(first), first - least))
        return (state, going, first, least), loss

    start = (state, jnp.ones((), bool), jnp.zeros(()), jnp.asarray(jnp.inf, jnp.float32))
    return jax.lax.scan(body, start, (jnp.arange(rates.shape[0]), jnp.asarray(rates)))[1]


@dataclasses.dataclass(frozen=True)
class RateTest:
    """The result of range tests: several repeats with other weights and batches show how reliable the pick is."""

    rates: np.ndarray
    """`[T]`, growing."""
    losses: np.ndarray
    """`[R, T]`, infinite after the explosion."""

    @property
    def smoothed(self) -> np.ndarray:
        """The losses before the explosion, smoothed over neighbouring steps, `[R, T]`; NaN after it."""
        return np.stack([_smooth(row) for row in self.losses])

    @property
    def mean(self) -> np.ndarray:
        """The smoothed losses averaged over the repeats that have not exploded, `[T]`; NaN if all have."""
        kept = np.isfinite(self.smoothed)
        total = np.where(kept, self.smoothed, 0).sum(axis=0)
        return np.where(kept.any(axis=0), total / np.maximum(kept.sum(axis=0), 1), np.nan)

    @property
    def turns(self) -> np.ndarray:
        """The rate of the lowest smoothed loss in each repeat, `[R]`: above it the loss rises."""
        return np.asarray([self.rates[np.nanargmin(row)] for row in self.smoothed])

    @property
    def steepest(self) -> np.ndarray:
        """The rate at which the smoothed loss falls fastest per decade, `[R]`."""
        found = []
        for row in self.smoothed:
            count = max(2, int(np.nanargmin(row)) + 1)  # up to the lowest loss: what comes after is no descent
            found.append(self.rates[np.argmin(np.gradient(row[:count], np.log(self.rates[:count])))])
        return np.asarray(found)

    @property
    def learned(self) -> np.ndarray:
        """Whether each repeat's loss fell by more than its noise, `[R]` bool; there is no pick from one that did not."""
        found = []
        for raw, row in zip(self.losses, self.smoothed, strict=True):
            early = raw[: max(5, len(raw) // 5)]
            noise = np.nanstd(early[np.isfinite(early)]) if np.isfinite(early).sum() > 1 else np.inf
            found.append(row[0] - np.nanmin(row) > max(2 * noise, 1e-6 * abs(row[0])))
        return np.asarray(found)

    @property
    def picks(self) -> np.ndarray:
        """The rate to train with by each repeat that learned, `[<= R]`: a fixed part of the rate of the lowest loss."""
        return self.turns[self.learned] / BELOW_TURN

    @property
    def pick(self) -> float:
        """The geometric mean of the picks.

        Raises:
            UsageError: in no repeat did the loss fall.
        """
        if not len(self.picks):
            raise UsageError(
                f"the loss did not fall at any rate from {self.rates[0]:.2g} to {self.rates[-1]:.2g}; try more steps, a "
                f"larger range or larger batches, and see whether the model learns at all"
            )
        return float(np.exp(np.log(self.picks).mean()))

    @property
    def spread(self) -> float:
        """The factor between the largest and the smallest pick, at least 1; NaN for fewer than two picks."""
        return float(self.picks.max() / self.picks.min()) if len(self.picks) > 1 else float("nan")

    def times(self, factor: float) -> "RateTest":
        """The same with all rates multiplied, if they were multiples of some rate."""
        return dataclasses.replace(self, rates=self.rates * factor)


def rate_test(step: RateStep, states: Any, batches: Any, rates: np.ndarray | None = None) -> RateTest:
    """A range test of any pure training step; one compilation for all repeats.

    Args:
        step: `(state, batch, rate) -> (state, loss)`.
        states: a list of the states to begin with, one for each repeat.
        batches: a list, for each repeat a tree of arrays `[T, ...]`, a batch for each rate.
        rates: `[T]`; by default `growing_rates()`.
    """
    rates = growing_rates() if rates is None else rates
    if len(states) != len(batches) or not states:
        raise UsageError(
            f"each repeat has a state and batches; got {len(states)} states and {len(batches)} sets of batches"
        )
    run = jax.jit(lambda state, batches, rates: losses_by_rate(step, state, batches, rates))
    losses = [np.asarray(run(state, some, rates)) for state, some in zip(states, batches, strict=True)]
    return RateTest(np.asarray(rates), np.stack(losses))


def _smooth(losses: np.ndarray) -> np.ndarray:
    """A Gaussian mean over the finite losses in front, NaN after them."""
    count = int(np.argmin(np.isfinite(losses))) if not np.isfinite(losses).all() else len(losses)
    out = np.full(len(losses), np.nan)
    if count:
        at = np.arange(count)
        weights = np.exp(-0.5 * ((at[:, None] - at[None]) / SMOOTHING) ** 2)
        out[:count] = weights @ losses[:count].astype(np.float64) / weights.sum(axis=1)
    return out
