"""One experiment from its configuration to its report."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxnets.callbacks.callback import Callback
from jaxnets.checkpoints.checkpoint import Checkpoints
from jaxnets.checkpoints.initial import Initial
from jaxnets.config.experiment import Expected, Experiment
from jaxnets.config.serialize import to_data
from jaxnets.core.errors import UsageError
from jaxnets.core.files import user_path
from jaxnets.core.versions import versions
from jaxnets.data.dataset import Dataset, with_learned
from jaxnets.parallel.determinism import require_determinism
from jaxnets.parallel.hosts import is_first, meet
from jaxnets.report.console import Console, ProgressKind, make_console
from jaxnets.report.history import History
from jaxnets.report.log import read_records
from jaxnets.report.loggers import Loggers
from jaxnets.report.tables import as_text
from jaxnets.runs import lock as run_lock
from jaxnets.runs.build import Parts, assemble
from jaxnets.runs.directory import RunDirectory
from jaxnets.runs.environment import check_data
from jaxnets.runs.finish import Words, finish
from jaxnets.runs.micro_batches import as_begun
from jaxnets.runs.run import Run
from jaxnets.runs.samples import samplers
from jaxnets.runs.session import Session, train_in, train_without_directory
from jaxnets.runs.stretch import Begun
from jaxnets.training.stopping import SIGNALS, Stopping


def train(
    experiment: Experiment,
    *,
    dataset: Dataset | None = None,
    mesh: Mesh | None = None,
    run_dir: str | Path | None = None,
    overwrite: bool = False,
    stop_at: int | None = None,
    initial: Initial | None = None,
    extend: bool = False,
    begun: Begun | None = None,
    hooks: Sequence[Callback] = (),
    loggers: Sequence[Any] = (),
    progress: ProgressKind = "auto",
    title: str = "",
    subtitle: str = "",
    expected: Expected | None = None,
) -> Run:
    """Train an experiment, or resume it from its run directory.

    Args:
        experiment: what to run.
        dataset: the data, where they are not to be opened from `experiment.data`.
        mesh: the devices to use, where they are not to be arranged by `experiment.mesh`.
        run_dir: where to keep checkpoints, log and report; None keeps nothing on disk.
        overwrite: replace a run that is there already.
        stop_at: stop after this many updates, as if interrupted; schedules still span `experiment.steps`.
        initial: initial weights; a run that has checkpoints resumes from those.
        extend: train the run in `run_dir` to another number of steps than it was made for, though the schedule of its
            learning rate then changes at this point; the console says how.
        begun: the state of a run without a directory that is continued.
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
    experiment = as_begun(experiment, None if overwrite else run_dir)
    _check_can_go_back(experiment, run_dir)
    _check_warm_start(experiment, run_dir)
    # In a notebook, an interrupt of a run without a directory, which could not be resumed, returns the current state.
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
        experiment = parts.experiment  # with all its numbers
        stop = experiment.total_steps if stop_at is None else min(stop_at, experiment.total_steps)
        sends = Loggers(loggers if is_first() else (), run_dir)
        hooks = (*hooks, *samplers(parts, run_dir, loggers))
        session = Session(parts, console, stopping, stop, initial=initial, begun=begun, hooks=hooks, loggers=sends)
        began, directory = time.perf_counter(), None
        stack.enter_context(jax.set_mesh(parts.mesh))
        if run_dir is None:
            sends.open(title, to_data(experiment))
            stack.callback(sends.close)
            trained = train_without_directory(session)
        else:
            if extend:
                _check_can_extend(Path(run_dir), parts)
            directory = _claim(Path(run_dir), experiment, overwrite, extend, console, stack)
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
    path: Path, experiment: Experiment, overwrite: bool, extend: bool, console: Console, stack: contextlib.ExitStack
) -> RunDirectory:
    """The run directory, locked for as long as `stack` is open; with several processes the first one claims it for all."""
    if is_first():
        RunDirectory.check_free(path)
        stack.enter_context(run_lock.hold(path.absolute(), say=console.say))
        directory = RunDirectory.claim(path, experiment, overwrite=overwrite, extend=console.say if extend else None)
    meet("run directory claimed")
    return directory if is_first() else RunDirectory(path.absolute())


def _check_can_extend(path: Path, parts: Parts) -> None:
    """Raise before anything is written if the run in a directory has other data, or would end early at once."""
    directory = RunDirectory(path.absolute())
    if not (directory.path / "config.json").exists():
        return
    if (directory.path / "environment.json").exists():
        check_data(directory, parts)
    records = read_records(directory.metrics) if directory.metrics.exists() else []
    at = parts.choice.ends_at(records, parts.watched[0])
    if at is not None:
        raise UsageError(
            f"{path} ended early at step {at}, and would again; continue without it (--stop.patience 0), or wait longer (a "
            f"larger --stop.patience)"
        )


def _check_can_go_back(experiment: Experiment, run_dir: Any) -> None:
    if run_dir is None and (experiment.guard.spike or experiment.on_nonfinite == "rollback"):
        raise UsageError(
            "a roll-back needs checkpoints: give a run_dir, or set guard.spike=0 and on_nonfinite='halt' or 'skip'"
        )


def _check_warm_start(experiment: Experiment, run_dir: Any) -> None:
    """Raise `UsageError` if the run to start from is missing; a run that has its own checkpoints does not need it."""
    begun = run_dir is not None and os.path.isdir(Path(run_dir) / "checkpoints")
    if experiment.warm_start.active and not begun and not os.path.isdir(user_path(experiment.warm_start.run)):
        raise UsageError(
            f"warm_start.run is {experiment.warm_start.run!r}, and there is no such folder; check the path"
        )


def _about(parts: Parts) -> dict[str, Any]:
    """The metadata in a manifest: experiment, versions, data, preparation."""
    return {
        "experiment": to_data(parts.experiment),
        "versions": versions(),
        "data": {"name": parts.dataset.name, "fingerprint": parts.dataset.fingerprint},
        "preparation": to_data(parts.dataset.preparation),
    }
