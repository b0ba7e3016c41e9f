"""The largest batch whose memory fits, by few measurements of the memory: each one may be a compilation."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxnets.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class LargestBatch:
    """The result of a search."""

    size: int
    """The largest measured batch size that fits; 0 if none does."""
    memory: Mapping[int, int]
    """Peak bytes of a step, for each measured batch size."""
    limit: int
    """Available bytes."""
    bounded: bool
    """Whether memory is the limit: a slightly larger batch was measured and does not fit. Otherwise the search ended at
    `most`."""

    @property
    def line(self) -> tuple[float, float]:
        """Bytes without any example, and bytes for each example, by a least-squares fit of the measurements."""
        sizes, peaks = np.asarray(list(self.memory), float), np.asarray(list(self.memory.values()), float)
        if len(sizes) < 2:
            return float(peaks[0]), 0.0
        slope, fixed = np.polyfit(sizes, peaks, 1)
        return max(0.0, float(fixed)), float(slope)


def largest_batch(
    peak: Callable[[int], int], limit: int, *, start: int, most: int, multiple: int = 1, tries: int = 8
) -> LargestBatch:
    """The largest batch with `peak(batch) <= limit`, between `multiple` and `most`.

    Memory is nearly linear in the batch size, so each try is the point at which the line through the two nearest measurements
    reaches the limit; if a try does not narrow the range enough, the next one is its middle. It ends when the largest that
    fits and the smallest that does not are 2 % or one `multiple` apart.

    Args:
        peak: peak bytes of a step, rising in the batch.
        limit: available bytes.
        start: the first batch to measure.
        most: the largest that makes sense.
        multiple: what the batch has to be a multiple of.
        tries: measurements at most.
    """
    if not 0 < multiple <= most:
        raise UsageError(f"a batch is a multiple of {multiple} up to {most}, and there is none; take more examples")
    top = most // multiple
    memory: dict[int, int] = {}

    def fits(units: int) -> bool:
        size = units * multiple
        if size not in memory:
            memory[size] = peak(size)
        return memory[size] <= limit

    low, high, unit = 0, top + 1, min(max(1, start // multiple), top)
    while len(memory) < tries and high - low > max(1, 0.02 * low):
        if fits(unit):
            low = max(low, unit)
        else:
            high = min(high, unit)
        if low == top:
            break
        unit = _next(memory, limit, low, high, multiple)
    ordered = dict(sorted(memory.items()))
    return LargestBatch(low * multiple, ordered, limit, high <= top)


def _next(memory: Mapping[int, int], limit: int, low: int, high: int, multiple: int) -> int:
    """The next batch to measure, in units of `multiple`, strictly between `low` and `high`."""
    if len(memory) == 1:
        guess = 2.0 * low if low else high / 2
    else:
        # The two measurements whose memory is nearest to the limit.
        near = sorted(memory, key=lambda size: abs(memory[size] - limit))[:2]
        (a, b), (x, y) = near, (memory[near[0]], memory[near[1]])
        slope = (y - x) / (b - a)
        guess = (a + (limit - x) / slope) / multiple if slope > 0 else math.inf
        if len(memory) > 4:  # the line does not help: halve the range
            guess = (low + high) / 2
    if math.isinf(guess):
        guess = high - 1
    return int(min(max(math.floor(guess), low + 1), high - 1))


def knee(throughput: Mapping[int, float], share: float = 0.9) -> int:
    """The smallest batch whose throughput (examples a second) is at least this share of the best one."""
    best = max(throughput.values())
    return min(size for size, rate in throughput.items() if rate >= share * best)


def fewest_parts(peak: Callable[[int], int], limit: int, numbers: Sequence[int]) -> int | None:
    """The smallest of some numbers of parts with `peak(number) <= limit`; None if none fits.

    One part is tried first, because it is apart: several have a sum of gradients beside those of a part. From two on the
    memory falls, so the range is halved. Of the numbers that are tried and fit, the last one is the answer.

    Args:
        peak: peak bytes of a step in so many parts.
        limit: available bytes.
        numbers: the candidates, rising.
    """
    several = [number for number in numbers if number > 1]
    if len(several) < len(numbers) and peak(1) <= limit:
        return 1
    found, low, high = None, 0, len(several)
    while low < high:
        middle = (low + high) // 2
        if peak(several[middle]) <= limit:
            found, high = several[middle], middle
        else:
            low = middle + 1
    return found
