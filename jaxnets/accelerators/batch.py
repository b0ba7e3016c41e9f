"""The largest batch of a configuration that fits, and the micro-batches for one that does not, by the compiler's analysis.

Nothing is run, so nothing can run out of memory, and the devices need not be there.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxnets.accelerators.estimate import compile_step, prepare
from jaxnets.config.experiment import Experiment
from jaxnets.diagnose.batch_size import LargestBatch, largest_batch
from jaxnets.parallel.mesh import batch_devices, make_mesh
from jaxnets.runs.memory import FILL
from jaxnets.runs.micro_batches import undivided


@dataclasses.dataclass(frozen=True)
class Fitting:
    """What fits on some devices."""

    largest: LargestBatch
    """With as many micro-batches as the experiment has."""
    wanted: int
    """The batch that the experiment has."""
    micro_batches: int | None
    """The smallest number of parts in which that batch fits; None where none does."""
    compilations: int


def fitting(experiment: Experiment, devices: Sequence[Any], limit: int, *, most: int = 0, tries: int = 8) -> Fitting:
    """The largest batch, and the micro-batches of the wanted one.

    Args:
        experiment: what would be trained.
        devices: for `make_mesh`, there or not.
        limit: bytes that a device has; a program may fill `FILL` of it.
        most: the largest batch to try; 0: the number of training examples, or 2^20 where that is more.
        tries: compilations for the largest batch.
    """
    shares = batch_devices(make_mesh(experiment.mesh, devices=devices))
    room, count = int(FILL * limit), 0

    def peak(batch: int, micro: int) -> int:
        nonlocal count
        count += 1
        sized = dataclasses.replace(experiment, batch_size=batch, micro_batches=micro)
        return compile_step(prepare(sized, devices)).peak

    micro = undivided(experiment).micro_batch_count
    multiple = shares * micro
    most = most or min(1 << 20, experiment.data.outline().card.examples["train"])
    start = max(multiple, experiment.batch_size // multiple * multiple)
    found = largest_batch(
        lambda batch: peak(batch, micro), room, start=start, most=max(most, multiple), multiple=multiple, tries=tries
    )
    needed = _micro_batches(experiment.batch_size, shares, found, micro, lambda n: peak(experiment.batch_size, n))
    return Fitting(found, experiment.batch_size, needed, count)


def _micro_batches(wanted: int, shares: int, found: LargestBatch, micro: int, peak: Any) -> int | None:
    """The smallest number of parts in which a batch fits: the first that the search promises and the compiler confirms."""
    part = found.size / micro  # examples in a micro-batch that are known to fit
    numbers = [n for n in range(1, wanted + 1) if wanted % n == 0 and wanted // n % shares == 0]
    for number in numbers:
        if number == micro and wanted in found.memory:
            if found.memory[wanted] <= found.limit:
                return number
        elif wanted / number <= 1.02 * max(part, shares) and peak(number) <= found.limit:
            return number
    return None
