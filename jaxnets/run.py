"""One experiment from its configuration to its report."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxnets.assemble import Parts, assemble
from jaxnets.config import Expected, Experiment
from jaxnets.data.dataset import Dataset
from jaxnets.environment import check_data, write_environment
from jaxnets.errors import DataError, RunDirectoryError
from jaxnets.parallel.mesh import MeshShape
from jaxnets.report.console import Console, ProgressKind, make_console
from jaxnets.report.history import History
from jaxnets.report.log import MetricsLog, read_records
from jaxnets.report.page import ReportData, write_report
from jaxnets.run_directory import RunDirectory
from jaxnets.training.checkpoint import Checkpoints, abstract
from jaxnets.training.hooks import EvaluateHook, LogHook, SaveHook
from jaxnets.training.loop import Every, Hook, fit
from jaxnets.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Words:
    """What a report says of a run that the run itself does not know."""

    title: str
    subtitle: str
    expected: Expected | None


@dataclasses.dataclass
class Run:
    """A trained experiment: its weights, its history, and what can be asked of it."""

    parts: Parts
    state: TrainState
    history: History
    directory: Path | None
    """The run directory, where it was given one."""

    @property
    def experiment(self) -> Experiment:
        """What was run."""
        return self.parts.experiment

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params": ..., ...}` for the model's `apply`; averaged where the run averages."""
        return self.state.best_variables

    def outputs(self, inputs: Any) -> np.ndarray:
        """The model's raw outputs (logits, say) for raw inputs `[N, ...]`, float32."""
        inputs = np.asarray(inputs)
        expected = self.parts.dataset.card.input_shape
        if inputs.shape[1:] != expected or not len(inputs):
            raise DataError(
                f"predict takes inputs of shape [N, {', '.join(map(str, expected))}], as in training; got {inputs.shape}. "
                f"For a single example, add a dim: x[None]"
            )
        with jax.set_mesh(self.parts.mesh):
            return self.parts.predictor(self.variables, inputs)

    def predict(self, inputs: Any) -> np.ndarray:
        """Predictions for raw inputs `[N, ...]` in the targets' own terms: class numbers, or values in their unit."""
        return self.parts.task.decide(self.outputs(inputs))

    def evaluate(self) -> dict[str, float]:
        """The task's metrics over the whole test split."""
        with jax.set_mesh(self.parts.mesh):
            return self.parts.evaluator.metrics(self.variables)

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
        progress: what to show on the console.
        title: name for the report; by default the model and the data.
        subtitle: a sentence under it.
        expected: the score to compare with in the summary.

    Raises:
        JaxnetsError: bad configuration, data or directory (before any work), a non-finite loss, a full disk.
    """
    console = make_console(progress)
    parts = assemble(experiment, dataset, mesh=mesh)
    directory = None if run_dir is None else RunDirectory.claim(Path(run_dir), experiment, overwrite=overwrite)
    title = title or f"{type(parts.task.model).__name__} on {parts.dataset.name}"
    stop = experiment.steps if stop_at is None else min(stop_at, experiment.steps)
    began = time.perf_counter()
    with jax.set_mesh(parts.mesh):
        if directory is None:
            state, log, start = _train_from(parts, parts.fresh_state(), None, None, stop, console)
        else:
            with Checkpoints(directory.checkpoints) as checkpoints:
                state, log, start = _train_in(parts, directory, checkpoints, stop, console)
    run = Run(parts, state, History(tuple(log.records)), directory.path if directory else None)
    if int(state.step) >= experiment.steps:
        words = Words(title, subtitle, expected)
        _finish(run, directory, console, words, time.perf_counter() - began, int(state.step) - start)
    elif directory is not None:
        console.say(f"stopped at step {int(state.step)} of {experiment.steps}; run the same command again to continue")
    return run


def open_run(run_dir: str | Path, *, dataset: Dataset | None = None, mesh: Mesh | None = None) -> Run:
    """A run from its directory, with the weights of its newest checkpoint; the arguments are those of `train`."""
    directory, experiment = RunDirectory.existing(run_dir)
    if mesh is None and experiment.mesh != MeshShape():
        # The mesh it was trained on need not be here; any will do to look at it.
        experiment = dataclasses.replace(
            experiment, mesh=MeshShape(), batch_size=max(1, jax.device_count()), micro_batches=1
        )
    parts = assemble(experiment, dataset, mesh=mesh)
    check_data(directory, parts)
    with jax.set_mesh(parts.mesh), Checkpoints(directory.checkpoints) as checkpoints:
        if checkpoints.latest is None:
            raise RunDirectoryError(f"{run_dir} has no checkpoint yet; train it first, with the same command")
        state, _ = checkpoints.restore(checkpoints.latest, abstract(parts.abstract, parts.shardings))
    return Run(parts, state, History(tuple(read_records(directory.metrics))), directory.path)


def _train_in(
    parts: Parts, directory: RunDirectory, checkpoints: Checkpoints, stop: int, console: Console
) -> tuple[TrainState, MetricsLog, int]:
    """Train in a run directory: from its newest checkpoint if it has one, else from the start."""
    start = checkpoints.latest or 0
    if start:
        check_data(directory, parts)
    host: dict[str, Any] = {}
    if checkpoints.latest is not None:
        state, host = checkpoints.restore(start, abstract(parts.abstract, parts.shardings))
        console.say(f"resuming {directory.path.name} at step {start} of {parts.experiment.steps}")
    else:
        state = parts.fresh_state()
    write_environment(directory, parts)
    log = MetricsLog(directory.metrics, resume_at=start)
    return _train_from(parts, state, log, checkpoints, stop, console, start=start, partial=host.get("log", {}))


def _train_from(
    parts: Parts,
    state: TrainState,
    log: MetricsLog | None,
    checkpoints: Checkpoints | None,
    stop: int,
    console: Console,
    *,
    start: int = 0,
    partial: Any = None,
) -> tuple[TrainState, MetricsLog, int]:
    """Run the loop with its hooks from `start` to `stop`; nothing where that is behind already."""
    log = log if log is not None else MetricsLog(None)
    if start >= stop:
        return state, log, start
    experiment, last = parts.experiment, parts.experiment.steps
    log_hook = LogHook(
        Every(experiment.log_every, (last,)),
        parts.task,
        batch_size=experiment.batch_size,
        record=log.append,
        show=console.advance,
    )
    log_hook.partial = partial or {}
    hooks: list[Hook] = [
        log_hook,
        EvaluateHook(Every(experiment.eval_every, (last,)), parts.evaluator, record=log.append),
    ]
    if checkpoints is not None:
        due = Every(experiment.save_every, (stop, last))
        hooks.append(SaveHook(due, checkpoints, host=lambda: {"log": log_hook.partial}))
    console.start(start, last)
    try:
        state = fit(
            parts.program,
            state,
            start=start,
            stop=stop,
            hooks=hooks,
            on_nonfinite=experiment.on_nonfinite,
            prefetch_depth=0 if parts.resident else 2,
        )
    finally:
        console.stop()
    return state, log, start


def _finish(
    run: Run,
    directory: RunDirectory | None,
    console: Console,
    words: "Words",
    seconds: float,
    trained: int,
) -> None:
    """The summary on the console and, in a run directory, the report."""
    parts, task = run.parts, run.parts.task
    final = {k: v for k, v in run.history.last("test").items() if k not in ("step", "split")}
    speeds = run.history.series("examples_per_second")[1]
    facts = {"parameters": f"{parts.parameters:,}", "steps": f"{parts.experiment.steps:,}"}
    if trained:
        facts["seconds to train"] = f"{seconds:.1f}"
    if speeds:
        facts["examples/s"] = f"{max(speeds):,.0f}"
    verdict = _verdict(final, words.expected)
    closing = ""
    if directory is not None:
        with jax.set_mesh(parts.mesh):
            outputs = parts.predictor(run.variables, parts.dataset.test["inputs"])
        report = ReportData(
            title=words.title,
            subtitle=f"{words.subtitle} ".lstrip()
            + f"{parts.dataset.name}: {parts.dataset.card.examples['train']:,} training and "
            f"{parts.dataset.card.examples['test']:,} test examples. Source: {parts.dataset.source}",
            headline=task.headline,
            history=run.history,
            final=final,
            facts=facts,
            exhibits=task.exhibits(outputs, parts.dataset.test, parts.dataset.card),
            config=directory.read_json("config.json"),
            environment=directory.read_json("environment.json"),
            expectation=verdict,
        )
        closing = f"report: {_short(write_report(directory.path, report))}"
    scores = sorted(((k, v) for k, v in final.items() if k != "examples"), key=lambda kv: kv[0] != task.headline)
    rows = [(f"test {name}", f"{value:.4g}") for name, value in scores]
    rows.append(("test examples", f"{final.get('examples', 0):,.0f}"))
    rows += list(facts.items())
    if verdict:
        rows.append(("expected", verdict))
    if directory is not None:
        rows.append(("run directory", _short(directory.path)))
    if not trained:
        rows.append(("note", "this run was complete already; --overwrite trains it anew"))
    console.summary(words.title, rows, closing)


def _verdict(final: dict[str, float], expected: Expected | None) -> str:
    if expected is None or expected.metric not in final:
        return ""
    reached = final[expected.metric] >= expected.at_least
    return (
        f"{expected.metric} at least {expected.at_least:g} with the configuration as shipped: "
        f"{'reached' if reached else 'not reached'}"
    )


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
