"""Training in a run directory: from its newest good checkpoint, from other weights, or from scratch; and roll-backs."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jaxnets.callbacks.profile import Profile
from jaxnets.checkpoints.begin import begin_from
from jaxnets.checkpoints.checkpoint import Checkpoints, abstract
from jaxnets.checkpoints.initial import begin_with
from jaxnets.checkpoints.names import compare_names
from jaxnets.config.serialize import to_data
from jaxnets.core.errors import CheckpointError, NonFiniteError, RunDirectoryError
from jaxnets.core.files import user_path
from jaxnets.core.renames import with_new_fields
from jaxnets.parallel.hosts import is_first, meet
from jaxnets.report.log import MetricsLog
from jaxnets.runs.choice import Best
from jaxnets.runs.directory import RunDirectory
from jaxnets.runs.ending import Trained, best_kept, complete, ends
from jaxnets.runs.environment import check_data, note_missing_callbacks, write_environment
from jaxnets.runs.samples import Drawn
from jaxnets.runs.stretch import Begun, Session, stretch
from jaxnets.training.guards import RollBackError
from jaxnets.training.plan import Every


def train_without_directory(session: Session) -> Trained:
    """Train without writing to the disk."""
    begun = session.begun or _fresh(session, None)
    log = MetricsLog(None, records=begun.records, send=session.loggers.record)
    state, kept = stretch(session, begun, log, None, ())
    if int(state.step) < session.parts.experiment.total_steps and not ends(session.parts, log, int(state.step)):
        return Trained(state, log, begun.start, False, None)
    metric = session.parts.choice.keep.best
    best = Best(kept[0], metric, kept[1], kept[2]) if kept is not None else None
    return complete(session.parts, Trained(state, log, begun.start, True, best), session.stopping)


def train_in(session: Session, directory: RunDirectory, checkpoints: Checkpoints) -> Trained:
    """Train in a run directory."""
    checkpoints.keep = session.parts.choice.keep
    _check_initial(session, directory, checkpoints)
    begun = _resume(session, directory, checkpoints)
    first = begun.start
    if is_first():
        callbacks = [type(hook).__name__ for hook in session.hooks if not isinstance(hook, Profile | Drawn)]
        if begun.start < session.stop:
            note_missing_callbacks(directory, callbacks)
        write_environment(directory, session.parts, callbacks)
        directory.write_json("preparation.json", to_data(session.parts.dataset.preparation))
    while True:
        pending = session.parts.watched[:1] if "evaluate" in begun.host.get("pending", ()) else ()
        again = (*pending, *begun.taken_back)
        path, send = directory.metrics if is_first() else None, session.loggers.record
        log = MetricsLog(path, resume_at=begun.start, rewrite=again, send=send)
        left_out = [batch for entry in directory.quarantine for batch in entry["batches"]]
        try:
            state, _ = stretch(session, begun, log, checkpoints, left_out, directory.path)
        except RollBackError as back:
            begun = _go_back(session, directory, checkpoints, back)
            session.loggers.rewind(begun.start)
            continue
        step, parts = int(state.step), session.parts
        if step < parts.experiment.total_steps and not ends(parts, log, step):
            return Trained(state, log, first, False, None)
        trained = Trained(state, log, first, True, best_kept(parts, checkpoints, state))
        return complete(parts, trained, session.stopping)


def _check_initial(session: Session, directory: RunDirectory, checkpoints: Checkpoints) -> None:
    """Raise `RunDirectoryError` if the run in the directory started from other weights than those given now."""
    if session.initial is None or not checkpoints.steps:
        return
    before = directory.read_object("initial.json").get("digest") if (directory.path / "initial.json").exists() else None
    if before != session.initial.digest():
        raise RunDirectoryError(
            f"{directory.path} holds a run that began with other weights; choose another run_dir, or replace that run with "
            f"overwrite=True"
        )


def _fresh(session: Session, directory: RunDirectory | None) -> Begun:
    """From scratch, or from another run's weights; always the same ones, even if that run was continued."""
    warm, state = session.parts.experiment.warm_start, session.parts.fresh_state()
    if warm.active:
        if directory is not None and directory.warm_started is not None:
            warm = dataclasses.replace(warm, step=directory.warm_started)
        parts, theirs = session.parts, RunDirectory.preparation_in(user_path(warm.run))

        def compare(fresh: Collection[str]) -> Any:
            return compare_names(
                parts.dataset.preparation, theirs, task=parts.task, batch=parts.batch_spec, fresh=fresh
            )

        state, step, summary = begin_from(warm, state, parts.shardings, compare)
        if directory is not None and is_first():
            directory.write_json("warm_start.json", {"run": warm.run, "step": step})
        session.console.say(f"warm start: {summary}")
    if session.initial is None and directory is not None and (directory.path / "initial.json").exists():
        raise RunDirectoryError(
            f"{directory.path} began with weights that were given in memory, and has no good checkpoint to resume from; run "
            f"the command or the code that gave them, or replace the run with --overwrite"
        )
    if session.initial is not None:
        state, summary = begin_with(session.initial, state, session.parts.shardings)
        if directory is not None and is_first():
            directory.write_json("initial.json", {"digest": session.initial.digest()})
        session.console.say(f"initial weights: {summary}")
    return Begun(state)


def _resume(session: Session, directory: RunDirectory, checkpoints: Checkpoints, at_most: int | None = None) -> Begun:
    """From the newest undamaged checkpoint; if there is none, from the beginning."""
    like = abstract(session.parts.abstract, session.parts.shardings)
    if checkpoints.steps:
        check_data(directory, session.parts)
    found = checkpoints.restore_newest(like, at_most=at_most, set_aside=True)
    for why in found.rejected:
        session.console.say(f"skipped a checkpoint: {why}")
    if found.step is None:
        return _fresh(session, directory)
    if found.step or at_most is None:
        what = "resuming" if at_most is None else "went back in"
        session.console.say(
            f"{what} {directory.path.name} at step {found.step} of {session.parts.experiment.total_steps}"
        )
    for one in directory.extensions:
        if found.step < one["at"]:
            session.console.say(
                f"the learning rates of steps {found.step} to {one['at']} are those of {one['after']} steps now: the run was "
                f"extended at step {one['at']}, and this checkpoint is an earlier one"
            )
    host = _believable(found.host, checkpoints.folders.path(found.step))
    return Begun(found.state, found.step, host, _taken_back(session, checkpoints, found.step))


def _taken_back(session: Session, checkpoints: Checkpoints, step: int) -> tuple[str, ...]:
    """The splits whose records at a step a longer run would not have, because a shorter run ended there and now continues."""
    experiment = session.parts.experiment
    before = with_new_fields(checkpoints.folders.manifest(step).about.get("experiment", {}))
    if before.get("steps") != step or step >= experiment.total_steps:
        return ()
    log_every, eval_every = before.get("log_every"), before.get("eval_every")
    if not isinstance(log_every, int) or not isinstance(eval_every, int):
        return ()
    between = not any(Every(every).is_multiple(step) for every in (eval_every, experiment.eval_every))
    watched = session.parts.watched[0]
    ended = {"train": not Every(log_every).is_multiple(step), "test": True} | {watched: between}
    return tuple(split for split, alone in ended.items() if alone)


def _believable(host: dict[str, Any], place: Path) -> dict[str, Any]:
    """The saved data of the host, with their types checked, because a file may contain anything."""
    try:
        return {
            "pending": tuple(str(name) for name in host.get("pending", ())),
            "spikes": [float(loss) for loss in host.get("spikes", ())],
            "log": {str(k): [float(total), float(weight)] for k, (total, weight) in host.get("log", {}).items()},
            "hooks": {str(name): kept for name, kept in host.get("hooks", {}).items()},
        }
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{place}: what the host remembered is not as jaxnets writes it ({error})") from error


def _go_back(session: Session, directory: RunDirectory, checkpoints: Checkpoints, back: RollBackError) -> Begun:
    """Roll back to a checkpoint before the fault; the batches at fault are left out from now on."""
    guard, entries = session.parts.experiment.guard, directory.quarantine
    if len(entries) >= guard.rollbacks:
        raise NonFiniteError(
            f"{back.reason}; the run rolled back {len(entries)} times already (guard.rollbacks). Lower the learning rate or "
            f"clip the gradient (optimizer.clip_norm); {directory.path / 'quarantine.json'} lists what was left out"
        ) from back
    batches = list(range(max(0, back.step - guard.leave_out), back.step))
    session.console.say(f"{back.reason}; rolling back, and leaving out batch{'es'[: 2 * (len(batches) > 1)]} "
                        f"{', '.join(map(str, batches))}")  # fmt: skip
    # Remove the states after these batches first, then write the entry: after a crash in between, the same fault is found
    # again.
    found = checkpoints.newest_verified(at_most=batches[0])
    checkpoints.discard_after(-1 if found.step is None else found.step)
    if is_first():
        directory.write_json(
            "quarantine.json", [*entries, {"step": back.step, "reason": back.reason, "batches": batches}]
        )
    meet("quarantine")
    return _resume(session, directory, checkpoints, at_most=batches[0])
