"""A trained run opened from its directory."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxnets.checkpoints.checkpoint import Checkpoints, abstract
from jaxnets.core.errors import DamagedError, RunDirectoryError, UsageError, note
from jaxnets.data.dataset import Dataset, hollow, with_learned
from jaxnets.data.sources.memory import InMemory
from jaxnets.interop.functions import Functions
from jaxnets.optim.given import as_optimizer, transformations
from jaxnets.parallel.mesh import MeshShape
from jaxnets.report.history import History
from jaxnets.report.log import read_records
from jaxnets.runs.build import Parts, assemble
from jaxnets.runs.choice import Best
from jaxnets.runs.directory import RunDirectory
from jaxnets.runs.environment import check_data
from jaxnets.runs.run import Run
from jaxnets.steps.state import TrainState
from jaxnets.tasks.base import Task


def open_run(
    run_dir: str | Path,
    *,
    dataset: Dataset | None = None,
    mesh: Mesh | None = None,
    step: int | None = None,
    model: Any = None,
    task: Task | None = None,
    optimizer: Any = None,
    loss: Any = None,
    metrics: Mapping[str, Any] | None = None,
) -> Run:
    """A run from its directory, with the weights of a checkpoint: the best if the run chose by evaluations (`stop`,
    `keep.best`), else the newest undamaged one.

    Args:
        run_dir: the directory.
        dataset: the data, where they are not to be opened from the experiment's own. A run on arrays that only its program
            held needs none to predict: what the arrays taught is kept with the run; to evaluate it does.
        mesh: the devices to use.
        step: of the checkpoint; None takes the best, or the newest.
        model: the model, where it is of a class or of functions of your own, as it was given to `fit`; a saved configuration
            names code and never runs it.
        task: likewise.
        optimizer: likewise.
        loss: likewise.
        metrics: likewise.

    Raises:
        JaxnetsError: no run, no good checkpoint, or other data than it was trained on.
    """
    own = [model if not isinstance(model, tuple) else Functions(*model), task, loss, *(metrics or {}).values()]
    own += [] if optimizer is None else transformations(as_optimizer(optimizer))
    directory, experiment = RunDirectory.existing(run_dir, [item for item in own if item is not None])
    learned = directory.preparation
    if mesh is None and experiment.mesh != MeshShape():
        # The mesh it was trained on need not be here; any will do to look at it.
        experiment = dataclasses.replace(experiment, mesh=MeshShape())
    if dataset is None:
        held = isinstance(experiment.data, InMemory) and learned is not None
        dataset = hollow(learned) if held and learned is not None else experiment.data.open()
    data = with_learned(dataset, learned) if learned else dataset
    try:
        parts = assemble(experiment, data, mesh=mesh)
    except UsageError:
        if mesh is not None:
            raise
        # Its batches cannot be divided among the devices that are here; to look at it, other batches will do.
        smaller = dataclasses.replace(experiment, batch_size=max(1, jax.device_count()), micro_batches=1)
        parts = assemble(smaller, data)
    if not dataset.hollow:
        check_data(directory, parts)
    with jax.set_mesh(parts.mesh), Checkpoints(directory.checkpoints, keep=parts.choice.keep) as checkpoints:
        best = _open_best(parts, checkpoints) if step is None else None
        if best is not None:
            return Run(parts, best[0], History(tuple(read_records(directory.metrics))), directory.path, best[1])
        if step is None:
            found = checkpoints.newest_verified()
            if found.step is None:
                why = f" ({'; '.join(found.rejected)})" if found.rejected else ""
                raise RunDirectoryError(
                    f"{run_dir} has no good checkpoint yet{why}; train it first, with the same command"
                )
            step = found.step
        state, _ = checkpoints.restore(step, abstract(parts.abstract, parts.shardings))
    return Run(parts, state, History(tuple(read_records(directory.metrics))), directory.path)


def _open_best(parts: Parts, checkpoints: Checkpoints) -> tuple[TrainState, Best] | None:
    """The best checkpoint of a run; None if it has none, or if that one is damaged."""
    found = checkpoints.best()
    if found is None:
        return None
    step, value = found
    try:
        state, _ = checkpoints.restore(step, abstract(parts.abstract, parts.shardings))
    except DamagedError as error:
        note(f"the best checkpoint, of step {step}, is damaged, so the newest good one is opened instead: {error}")
        return None
    return state, Best(step, checkpoints.keep.best, value, state.best_variables)
