"""A stretch of training: the loop with its hooks, from the step at which a run starts or resumes to the step at which it
stops."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax

from jaxnets.callbacks.as_hooks import Callbacks
from jaxnets.callbacks.callback import Callback, Progress
from jaxnets.checkpoints.checkpoint import Checkpoints
from jaxnets.checkpoints.initial import Initial
from jaxnets.checkpoints.retention import seconds_between_saves
from jaxnets.core.errors import PreemptedError
from jaxnets.parallel.hosts import is_first
from jaxnets.report.console import Console
from jaxnets.report.log import MetricsLog
from jaxnets.report.loggers import Loggers
from jaxnets.runs.build import Parts
from jaxnets.runs.ending import adjusted, ends
from jaxnets.runs.flops import utilisation
from jaxnets.steps.state import TrainState
from jaxnets.training.best import BestInMemory
from jaxnets.training.guards import RollBackError, SpikeWatch
from jaxnets.training.hooks import EvaluateHook, LogHook, SaveHook
from jaxnets.training.loop import Timing, Watch, fit
from jaxnets.training.plan import Every, Moment
from jaxnets.training.ramp import Stage, examples_until
from jaxnets.training.stages import StagedProgram, StageHook
from jaxnets.training.stopping import Stopping


@dataclasses.dataclass(frozen=True)
class Session:
    """The inputs of a stretch of training."""

    parts: Parts
    console: Console
    stopping: Stopping
    stop: int
    """Updates done when it ends."""
    timing: Timing = dataclasses.field(default_factory=Timing)
    initial: Initial | None = None
    """Initial weights, if they are in memory."""
    begun: "Begun | None" = None
    """A state in memory to continue from."""
    hooks: tuple[Callback, ...] = ()
    """The user's callbacks."""
    loggers: Loggers = Loggers((), None)
    """The loggers that get the records."""


@dataclasses.dataclass(frozen=True)
class Begun:
    """The start of a stretch of training."""

    state: TrainState
    start: int = 0
    host: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The host data of the checkpoint, beside the state."""
    taken_back: tuple[str, ...] = ()
    """Splits whose records at this very step were written because a shorter run ended here."""
    records: tuple[dict[str, Any], ...] = ()
    """The records so far, if no file has them."""


def stretch(
    session: Session,
    begun: Begun,
    log: MetricsLog,
    checkpoints: Checkpoints | None,
    left_out: Any,
    directory: Path | None = None,
) -> tuple[TrainState, Any]:
    """Run the loop with its hooks to the session's end; do nothing if this step is passed already and nothing is pending.

    Returns the state and, without checkpoints, `BestInMemory.best`.
    """
    parts, experiment, last = session.parts, session.parts.experiment, session.parts.experiment.total_steps
    pending, stopping = tuple(begun.host.get("pending", ())), session.stopping
    progress = Progress(parts, directory, log.append, session.loggers.show, stopping)
    callbacks = Callbacks(session.hooks, progress, stopping)
    if not pending and (begun.start >= session.stop or ends(parts, log, begun.start)):
        return begun.state, None
    spikes = SpikeWatch(experiment.guard, begun.host.get("spikes", ()))
    log_hook = _log_hook(session, log, begun, last)
    due = Every(experiment.eval_every, (last,))
    split, evaluator = parts.watched

    def evaluated(record: dict[str, Any]) -> None:
        log.append(record)
        values = {name: value for name, value in record.items() if name not in ("step", "split")}
        callbacks.tell("evaluated", split, values, step=record["step"])

    evaluate = EvaluateHook(due, evaluator, record=evaluated, split=split, stopping=stopping)
    saver: SaveHook | BestInMemory | None = None
    if checkpoints is None and parts.choice.keep.best:
        saver = BestInMemory(parts.choice.keep.best, parts.choice.keep.direction, evaluate)
    elif checkpoints is not None:
        every = experiment.save_every if isinstance(experiment.save_every, int) else 0
        saver = SaveHook(
            Every(every, (session.stop, last)),
            checkpoints,
            host=lambda: {"log": log_hook.partial, "spikes": spikes.recent, "hooks": callbacks.state()},
            metrics=lambda: evaluate.newest,
            sync=log.sync,
            saved=lambda step: callbacks.tell("saved", step=step),
            seconds=seconds_between_saves(experiment.save_every) if is_first() else 0.0,
            best=_best(checkpoints, begun.start),
        )
    session.console.start(begun.start, last)
    callbacks.restore(begun.host.get("hooks", {}))
    callbacks.tell_with("started", begun.state)
    callbacks.raise_first()
    try:
        state = fit(
            parts.program,
            begun.state,
            start=begun.start,
            stop=max(session.stop, begun.start),
            hooks=[log_hook, evaluate, *callbacks.hooks, StageHook(_stages(session), session.console.say, stop=last)],
            saver=saver,
            pending=pending,
            left_out=left_out,
            watch=_watch(session, log, spikes),
            prefetch_depth=0 if parts.resident else 2,
        )
    except PreemptedError as error:
        callbacks.tell("stopped", str(error))
        raise
    except RollBackError:
        raise
    except BaseException as error:
        callbacks.tell("failed", error)
        raise
    finally:
        session.console.stop()
    _after(session, log, callbacks, log_hook, state)
    return state, saver.best if isinstance(saver, BestInMemory) else None


def _watch(session: Session, log: MetricsLog, spikes: SpikeWatch) -> Watch:
    """The policies, signals and callbacks that the loop checks between steps."""
    return Watch(
        session.parts.experiment.on_nonfinite,
        spikes,
        session.stopping,
        session.timing,
        ended=lambda step: ends(session.parts, log, step),
        health=lambda step, values: log.append({"step": step, "split": "health", **values}),
        adjusted=lambda state: adjusted(session.parts, log, state),
    )


def _stages(session: Session) -> tuple[Stage, ...]:
    """The sizes of batches, from which step on."""
    program = session.parts.program
    return program.stages if isinstance(program, StagedProgram) else (Stage(0, session.parts.experiment.batch_size),)


def _log_hook(session: Session, log: MetricsLog, begun: Begun, last: int) -> LogHook:
    """The hook that writes train records, with the sums from a checkpoint."""
    experiment = session.parts.experiment
    hook = LogHook(
        Every(experiment.log_every, (last,)),
        session.parts.task,
        examples=functools.partial(examples_until, _stages(session)),
        record=log.append,
        show=session.console.advance,
        event=lambda step, what: _event(session, log, step, what),
        leaves=lambda: session.parts.program.leaves,
        elsewhere=lambda: session.timing.beside_steps,
        utilisation=utilisation(session.parts),
    )
    hook.partial = begun.host.get("log", {})
    return hook


def _after(session: Session, log: MetricsLog, callbacks: Callbacks, log_hook: LogHook, state: TrainState) -> None:
    """After the last step: the record of an early end, the callbacks' last calls, and the error that one of them raised."""
    step = int(jax.device_get(state.step))
    over = step >= session.parts.experiment.total_steps or ends(session.parts, log, step)
    if over and step < session.stop and log_hook.partial:  # it ended early, between two records
        log_hook.run(Moment(step, state))
    callbacks.raise_first()
    if over:
        callbacks.tell_with("ended", state)
    else:
        callbacks.tell_with("stopped", state, session.stopping.reason or f"it was to stop at step {session.stop}")
    callbacks.raise_first()


def _best(checkpoints: Checkpoints, start: int) -> tuple[str, str, float | None] | None:
    """Name, direction and best value so far of `keep.best`, from the checkpoints up to a step."""
    keep = checkpoints.keep
    return (keep.best, keep.direction, checkpoints.best_so_far(at_most=start)) if keep.best else None


def _event(session: Session, log: MetricsLog, step: int, what: str) -> None:
    log.append({"step": step, "split": "event", "what": f"update left out: {what}"})
    session.console.say(f"step {step} is not finite ({what}); its update was left out")
