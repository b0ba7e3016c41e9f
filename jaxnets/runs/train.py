"""One experiment from its configuration to its report."""

import contextlib
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from jaxnets.callbacks.callback import Callback
from jaxnets.checkpoints.checkpoint import Checkpoints, abstract
from jaxnets.checkpoints.initial import Initial
from jaxnets.config.experiment import Expected, Experiment
from jaxnets.config.serialize import to_data
from jaxnets.core.errors import DamagedError, RunDirectoryError, UsageError, note
from jaxnets.core.files import user_path
from jaxnets.core.versions import versions
from jaxnets.data.dataset import Dataset, hollow, with_learned
from jaxnets.data.given import check_given
from jaxnets.data.sources.memory import InMemory
from jaxnets.interop.functions import Functions
from jaxnets.models.layers import most_positions
from jaxnets.optim.given import as_optimizer, transformations
from jaxnets.parallel.determinism import require_determinism
from jaxnets.parallel.hosts import is_first, meet
from jaxnets.parallel.mesh import MeshShape
from jaxnets.report.console import Console, ProgressKind, make_console
from jaxnets.report.history import History
from jaxnets.report.log import read_records
from jaxnets.report.loggers import Loggers
from jaxnets.report.tables import as_text
from jaxnets.runs import lock as run_lock
from jaxnets.runs.build import Parts, assemble
from jaxnets.runs.choice import Best
from jaxnets.runs.directory import RunDirectory
from jaxnets.runs.environment import check_data
from jaxnets.runs.finish import Words, finish
from jaxnets.runs.session import Session, train_in, train_without_directory
from jaxnets.steps.state import TrainState
from jaxnets.tasks.base import Task
from jaxnets.training.stopping import SIGNALS, Stopping


@dataclasses.dataclass
class Run:
    """A trained experiment: its weights, its history, and what can be asked of it."""

    parts: Parts
    """What the experiment was built into: data, task, step, mesh."""
    state: TrainState
    """The training state after the last step."""
    history: History
    """The logged numbers of training and of evaluations."""
    directory: Path | None
    """The run directory, where it was given one."""
    best: Best | None = None
    """The weights of the best evaluation, where the run chose by evaluations (`stop`, `keep.best`)."""

    @property
    def experiment(self) -> Experiment:
        """What was run."""
        return self.parts.experiment

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params": ..., ...}` for the model's `apply`: of the best evaluation where the run chose by evaluations, else of
        the last step; averaged where the run averages."""
        return self.state.best_variables if self.best is None else self.best.variables

    def outputs(self, inputs: Any) -> np.ndarray:
        """The model's raw outputs (logits, say) for raw inputs `[N, ...]`, float32.

        Where the model takes more than one array (a graph's edges, say), give a dict of them, as in `Dataset.test`; several
        inputs have the form that they had in training.
        """
        return self._asked(inputs, np.asarray)

    def predict(self, inputs: Any) -> np.ndarray:
        """Predictions for raw inputs (as for `outputs`) in the targets' own terms: class numbers, or values in their unit."""
        return self._asked(inputs, self.parts.task.decide)

    def _asked(self, inputs: Any, decide: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        arrays = check_given(inputs, self.parts.dataset.preparation, most_positions(self.parts.task.model))
        with jax.set_mesh(self.parts.mesh):
            return self.parts.predictor(self.variables, arrays, decide=decide)

    def evaluate(self, split: Literal["test", "validation"] = "test") -> dict[str, float]:
        """The task's metrics over a whole split, of `variables`.

        Raises:
            UsageError: the run was opened without its data, or has no validation split.
        """
        if self.parts.dataset.hollow:
            raise UsageError(
                f"{self.directory} was trained on arrays that only its program held, so there is no test split here; "
                f"give them again, open_run(directory, dataset=from_arrays(...)), or predict"
            )
        evaluator = {"test": self.parts.evaluator, "validation": self.parts.validator}.get(split)
        if evaluator is None:
            raise UsageError(
                f"this run has no split {split!r}; ask for 'test', or give validation= where it is trained"
            )
        with jax.set_mesh(self.parts.mesh):
            return evaluator.metrics(self.variables)

    def __repr__(self) -> str:
        name = type(self.parts.task.model).__name__
        return f"Run({name} on {self.parts.dataset.name}, {int(self.state.step)} steps, {self.history!r})"


def train(
    experiment: Experiment,
    *,
    dataset: Dataset | None = None,
    mesh: Mesh | None = None,
    run_dir: str | Path | None = None,
    overwrite: bool = False,
    stop_at: int | None = None,
    initial: Initial | None = None,
    hooks: Sequence[Callback] = (),
    loggers: Sequence[Any] = (),
    progress: ProgressKind = "auto",
    title: str = "",
    subtitle: str = "",
    expected: Expected | None = None,
) -> Run:
    """Train an experiment, or continue it where its run directory left off.

    Args:
        experiment: what to run.
        dataset: the data, where they are not to be opened from `experiment.data`.
        mesh: the devices to use, where they are not to be arranged by `experiment.mesh`.
        run_dir: where to keep checkpoints, log and report; None keeps nothing on disk.
        overwrite: replace a run that is there already.
        stop_at: stop after this many updates, as if interrupted; schedules still span `experiment.steps`.
        initial: weights to begin with; a run that has checkpoints goes on from those.
        hooks: callbacks (see `jaxnets.Callback`), in the order in which they are called.
        loggers: where the log is repeated: "csv", "tensorboard", "wandb", "mlflow", or objects of `report.loggers`.
        progress: what to show on the console.
        title: name for the report; by default the model and the data.
        subtitle: a sentence under it.
        expected: the score to compare with in the summary.

    Raises:
        JaxnetsError: bad configuration, data or directory (before any work), a non-finite loss, a full disk.
    """
    if experiment.deterministic:
        require_determinism()  # before anything starts the devices
    console = make_console(progress if is_first() else "none")
    run_dir = None if run_dir is None else user_path(run_dir)
    _check_can_go_back(experiment, run_dir)
    _check_warm_start(experiment, run_dir)
    # In a notebook an interrupt of a run without a directory, which nothing could go on with, gives what there is.
    partial = run_dir is None and "ipykernel" in sys.modules
    stopping = Stopping(gently=partial)
    with contextlib.ExitStack() as stack:
        if run_dir is not None or partial:
            stack.enter_context(stopping.on_signals((signal.SIGINT,) if partial else SIGNALS))
        dataset = dataset if dataset is not None else experiment.data.open()
        learned = None if run_dir is None or overwrite else RunDirectory.preparation_in(Path(run_dir))
        if learned is not None and learned.name == dataset.name:
            dataset = with_learned(dataset, learned)  # that these are the data it was learned from is checked below
        parts = assemble(experiment, dataset, mesh=mesh)
        if (columns := parts.dataset.preparation.columns) is not None:
            table = columns.table()
            console.say(as_text(table.title, table.header, table.rows))
        title = title or f"{type(parts.task.model).__name__} on {parts.dataset.name}"
        stop = experiment.steps if stop_at is None else min(stop_at, experiment.steps)
        sends = Loggers(loggers if is_first() else (), run_dir)
        session = Session(parts, console, stopping, stop, initial=initial, hooks=tuple(hooks), loggers=sends)
        began, directory = time.perf_counter(), None
        stack.enter_context(jax.set_mesh(parts.mesh))
        if run_dir is None:
            sends.open(title, to_data(experiment))
            stack.callback(sends.close)
            trained = train_without_directory(session)
        else:
            directory = _claim(Path(run_dir), experiment, overwrite, console, stack)
            sends.open(title, to_data(experiment))
            stack.callback(sends.close)
            checkpoints = Checkpoints(directory.checkpoints, keep=experiment.keep, about=_about(parts))
            with checkpoints:
                trained = train_in(session, directory, checkpoints)
        state, history = trained.state, History(tuple(trained.log.records))
        run = Run(parts, state, history, directory.path if directory else None, trained.best)
        if trained.complete:
            words, steps = Words(title, subtitle, expected), int(state.step) - trained.start
            finish(run, directory, console, words, time.perf_counter() - began, steps, session.timing)
        elif directory is not None or stopping.requested:
            why = f" ({stopping.reason})" if stopping.requested else ""
            further = "; run the same command again to continue" if directory is not None else ""
            console.say(f"stopped at step {int(state.step)} of {experiment.steps}{why}{further}")
    return run


def _claim(
    path: Path, experiment: Experiment, overwrite: bool, console: Console, stack: contextlib.ExitStack
) -> RunDirectory:
    """The run directory, locked for as long as `stack` is open; with several processes the first one claims it for all."""
    if is_first():
        RunDirectory.check_free(path)
        stack.enter_context(run_lock.hold(path.absolute(), say=console.say))
        directory = RunDirectory.claim(path, experiment, overwrite=overwrite)
    meet("run directory claimed")
    return directory if is_first() else RunDirectory(path.absolute())


def _check_can_go_back(experiment: Experiment, run_dir: Any) -> None:
    if run_dir is None and (experiment.guard.spike or experiment.on_nonfinite == "rollback"):
        raise UsageError(
            "going back needs checkpoints: give a run_dir, or set guard.spike=0 and on_nonfinite='halt' or 'skip'"
        )


def _check_warm_start(experiment: Experiment, run_dir: Any) -> None:
    """Raise `UsageError` where the run to begin from is missing; a run that has checkpoints of its own does not need it."""
    begun = run_dir is not None and os.path.isdir(Path(run_dir) / "checkpoints")
    if experiment.warm_start.active and not begun and not os.path.isdir(user_path(experiment.warm_start.run)):
        raise UsageError(
            f"warm_start.run is {experiment.warm_start.run!r}, and there is no such folder; check the path"
        )


def _about(parts: Parts) -> dict[str, Any]:
    """What a manifest records beside the state: experiment, versions, data, preparation."""
    return {
        "experiment": to_data(parts.experiment),
        "versions": versions(),
        "data": {"name": parts.dataset.name, "fingerprint": parts.dataset.fingerprint},
        "preparation": to_data(parts.dataset.preparation),
    }


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
    """A run from its directory, with the weights of a checkpoint: the best where the run chose by evaluations (`stop`,
    `keep.best`), else the newest that verifies.

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
        experiment = dataclasses.replace(
            experiment, mesh=MeshShape(), batch_size=max(1, jax.device_count()), micro_batches=1
        )
    if dataset is None:
        held = isinstance(experiment.data, InMemory) and learned is not None
        dataset = hollow(learned) if held and learned is not None else experiment.data.open()
    parts = assemble(experiment, with_learned(dataset, learned) if learned else dataset, mesh=mesh)
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
    """The best checkpoint of a run; None where it has none, or where that one is damaged."""
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
