"""The difference of two ways to train, from pairs of runs with the same seed: its interval and the verdict.

The seed decides initial weights, order of the data and random draws, so two runs of one seed share much of their noise, and
their difference varies less than their scores. The interval is Student's: `mean +- t * s / sqrt(n)` with n - 1 degrees of
freedom, where `s` is the standard deviation of the n differences.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from jaxnets.core.errors import UsageError

Verdict = Literal["better", "worse", "unclear"]
# More seeds than this are not suggested: the difference is practically 0.
MOST_SEEDS = 10_000


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The mean of some numbers and half of the width of its interval; NaN for the half of fewer than two numbers.

    Args:
        values: finite numbers.
        level: probability with which the interval holds the true mean, for normally distributed numbers.
    """
    count = len(values)
    if not count:
        return math.nan, math.nan
    mean = float(np.mean(values, dtype=np.float64))
    if count < 2:
        return mean, math.nan
    error = float(np.std(np.asarray(values, np.float64), ddof=1)) / math.sqrt(count)
    return mean, _quantile((1 + level) / 2, count - 1) * error


@dataclasses.dataclass(frozen=True)
class Paired:
    """Scores of A and B, a pair for each seed."""

    first: tuple[float, ...]
    """A's scores, finite."""
    second: tuple[float, ...]
    """B's scores with the same seeds in the same order."""
    better: Literal["max", "min"] = "max"
    """Whether more or less of the score is better."""
    level: float = 0.95
    """Confidence level of the interval."""

    def __post_init__(self) -> None:
        if len(self.first) != len(self.second):
            raise UsageError(f"pairs have two scores each; got {len(self.first)} of A and {len(self.second)} of B")
        if not all(map(math.isfinite, (*self.first, *self.second))):
            raise UsageError("scores of pairs are finite; leave out the seeds of runs that failed")
        if not 0 < self.level < 1:
            raise UsageError(f"level is a probability between 0 and 1, got {self.level}")

    @property
    def pairs(self) -> int:
        """Seeds."""
        return len(self.first)

    @property
    def differences(self) -> np.ndarray:
        """B minus A, float64 `[pairs]`."""
        return np.subtract(self.second, self.first, dtype=np.float64)

    @property
    def mean(self) -> float:
        """The mean difference, B minus A; NaN without pairs."""
        return interval(self.differences.tolist(), self.level)[0]

    @property
    def half(self) -> float:
        """Half of the width of the interval; NaN for fewer than two pairs."""
        return interval(self.differences.tolist(), self.level)[1]

    @property
    def verdict(self) -> Verdict:
        """B compared with A. It is unclear where the interval contains 0, and where there is no interval.

        Differences that are all the same have an interval without width: the score is too coarse to say how much it varies,
        so this is unclear as well.
        """
        if not self.half > 0 or abs(self.mean) <= self.half:
            return "unclear"
        return "better" if (self.mean > 0) == (self.better == "max") else "worse"

    def more_seeds(self, power: float = 0.8) -> int | None:
        """Seeds to add until a difference of this mean and spread is found with probability `power`; 0: there are enough. None
        if no number up to 10,000 suffices, or if the spread is unknown. The number is an approximation, by `n >= ((t_level +
        t_power) s / mean)^2` with the quantiles of n - 1 degrees of freedom.
        """
        spread = float(np.std(self.differences, ddof=1)) if self.pairs > 1 else math.nan
        if not spread > 0 or self.mean == 0:
            return None

        def enough(count: int) -> bool:
            reach = _quantile((1 + self.level) / 2, count - 1) + _quantile(power, count - 1)
            return abs(self.mean) * math.sqrt(count) >= reach * spread

        if enough(self.pairs):
            return 0
        if not enough(MOST_SEEDS):
            return None
        low, high = self.pairs, MOST_SEEDS  # not enough, enough
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high - self.pairs


def paired_by_seed(
    first: Mapping[int, float], second: Mapping[int, float], better: Literal["max", "min"] = "max"
) -> Paired:
    """The pairs of two sets of scores by seed: the seeds that both have, with finite scores."""
    both = [s for s in first if s in second and math.isfinite(first[s]) and math.isfinite(second[s])]
    return Paired(tuple(first[s] for s in both), tuple(second[s] for s in both), better)


def in_words(found: Paired, metric: str) -> str:
    """The result of the pairs, in one or two sentences."""
    if found.pairs < 2:
        return f"{metric}: {found.pairs} pairs of runs give no interval; use two seeds or more"
    text = f"{metric}: B - A = {found.mean:+.4g} ± {found.half:.2g} ({found.level:.0%} interval, {found.pairs} pairs of runs)"
    if found.verdict != "unclear":
        return f"{text}: B is {found.verdict}"
    if not found.half > 0:
        return f"{text}: every pair has the same difference, so its spread cannot be estimated; use more seeds"
    more = found.more_seeds()
    if more is None:
        need = f"more than {MOST_SEEDS:,} seeds would be needed for a difference of this size"
    elif more:
        need = f"about {more:,} more seeds would tell a difference of this size (with a chance of 80 %)"
    else:
        need = "repeat it with other seeds"
    return f"{text}: the interval contains 0, so neither is better by these runs; {need}"


def _quantile(probability: float, freedom: int) -> float:
    """Of Student's t distribution."""
    from scipy.special import stdtrit  # a dependency of jax; its import takes time

    return float(stdtrit(freedom, probability))
