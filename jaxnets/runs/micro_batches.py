"""Micro-batches that are chosen by memory: `micro_batches="auto"` takes the fewest with which the compiled step fits.

They are chosen where the parts of a run are built, before anything is trained, and are a number from there on. A run that is
resumed in its directory keeps its first number.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jax.sharding import Mesh

from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError, note
from jaxnets.diagnose.batch_size import fewest_parts
from jaxnets.parallel.mesh import batch_devices
from jaxnets.runs.directory import RunDirectory
from jaxnets.runs.memory import FILL, memory_here, step_memory

if TYPE_CHECKING:
    from jaxnets.runs.build import Parts


def undivided(experiment: Experiment) -> Experiment:
    """The experiment with whole batches instead of "auto", for uses that do not depend on micro-batches."""
    return dataclasses.replace(experiment, micro_batches=1) if experiment.micro_batches == "auto" else experiment


def as_begun(experiment: Experiment, run_dir: str | Path | None) -> Experiment:
    """The experiment with the micro-batches of the run in a directory instead of "auto"; unchanged if there is no run."""
    if experiment.micro_batches != "auto" or run_dir is None or not (Path(run_dir) / "config.json").exists():
        return experiment
    number = RunDirectory(Path(run_dir).absolute()).read_object("config.json").get("micro_batches")
    if not isinstance(number, int) or number < 1 or experiment.batch_size % number:
        return experiment  # another run, which the comparison of the two reports
    return dataclasses.replace(experiment, micro_batches=number)


def with_fewest(
    experiment: Experiment, mesh: Mesh, build: Callable[[Experiment], "Parts"], *, memory: int | None = None
) -> "Parts":
    """The parts of an experiment with the fewest micro-batches whose compiled step fits; a note says how many.

    Args:
        experiment: what to run.
        mesh: its devices.
        build: builds the parts of an experiment.
        memory: bytes of a device, of which `FILL` may be filled; None: those of the present devices.

    Raises:
        UsageError: no number of micro-batches fits.
    """
    room = int(FILL * (memory_here() if memory is None else memory))
    peaks: dict[int, int] = {}
    chosen: Parts | None = None

    def peak(number: int) -> int:
        nonlocal chosen
        try:
            parts = build(dataclasses.replace(experiment, micro_batches=number))
        except UsageError:
            if number == 1:
                raise
            return room + 1  # so few examples are not allowed for this model, for its batch norm, for example
        peaks[number] = step_memory(parts).peak
        if peaks[number] <= room:
            chosen = parts  # the last that fits is the answer
        return peaks[number]

    sizes = _sizes(experiment, batch_devices(mesh))
    found = fewest_parts(peak, room, sizes)
    if found is None or chosen is None:
        least = min(peaks, key=lambda number: peaks[number])
        raise UsageError(
            f"micro_batches is 'auto', and a batch of {experiment.batch_size} fits in no number of micro-batches: in {least} "
            f"a step takes {_shown(peaks[least])}, and {_shown(room)} may be filled on each device. Take a smaller batch, "
            f"more devices with mesh.fsdp, or a smaller model"
        )
    fewer = max((number for number in peaks if number < found), default=None)
    beyond = "" if fewer is None else f"; with {fewer} it would take {_shown(peaks[fewer])}"
    note(
        f"micro_batches is 'auto': it is {found}, with {experiment.batch_size // found} examples each. A step takes "
        f"{_shown(peaks[found])}, and {_shown(room)} may be filled on each device{beyond}"
    )
    return chosen


def _sizes(experiment: Experiment, shares: int) -> list[int]:
    """The numbers of micro-batches that divide the batch, each with fewer rows on a device than the one before."""
    batch, replicas = experiment.batch_size, experiment.local.replicas
    numbers: list[int] = []
    for number in range(1, batch + 1):
        if batch % (number * replicas):
            continue
        rows = -(-batch // (number * shares))
        if not numbers or rows < -(-batch // (numbers[-1] * shares)):
            numbers.append(number)
    return numbers


def _shown(size: int) -> str:
    """Bytes with a unit, in powers of 1024."""
    return f"{size / 2**30:,.2f} GiB" if size >= 1 << 30 else f"{size / 2**20:,.2f} MiB"
