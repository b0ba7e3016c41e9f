"""The end of a run: early stopping, the best weights, and the single measurement of the test split."""

import dataclasses

import jax

from jaxnets.checkpoints.checkpoint import Checkpoints, abstract
from jaxnets.core.errors import PreemptedError
from jaxnets.optim.plateau import with_rate_scale
from jaxnets.parallel.hosts import from_first
from jaxnets.report.log import CHOSEN, MetricsLog
from jaxnets.runs.build import Parts
from jaxnets.runs.choice import Best
from jaxnets.steps.state import TrainState
from jaxnets.training.stopping import Stopping, StopRequestedError


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of a stretch of training."""

    state: TrainState
    """After the last step."""
    log: MetricsLog
    start: int
    """Updates done when it began."""
    complete: bool
    """Whether the run is complete: all steps are done, or it ended early."""
    best: Best | None
    """The weights that are chosen by evaluations; None if nothing is chosen."""


def ends(parts: Parts, log: MetricsLog, step: int) -> bool:
    """Whether a run ends early, by its evaluations up to a step; the same on every process (the first has all records)."""
    if not parts.choice.stop.patience:
        return False
    at = parts.choice.ends_at(log.records, parts.watched[0])
    with jax.transfer_guard("allow"):
        return bool(from_first(at is not None and at <= step))


def adjusted(parts: Parts, log: MetricsLog, state: TrainState) -> TrainState:
    """The state with the scale of the learning rate (`optim.Plateau`) according to the evaluations so far."""
    plateau = parts.choice.plateau
    if plateau is None:
        return state
    with jax.transfer_guard("allow"):
        count = from_first(parts.choice.reductions(log.records, parts.watched[0]))
        opt_state = with_rate_scale(state.opt_state, plateau.scale_after(count))
    return dataclasses.replace(state, opt_state=opt_state)


def best_kept(parts: Parts, checkpoints: Checkpoints, state: TrainState) -> Best | None:
    """The best weights among the checkpoints; `state` is that of the last step."""
    checkpoints.wait()
    found = checkpoints.best()
    if found is None:
        return None
    step, value = found
    if step != int(state.step):
        state, _ = checkpoints.restore(step, abstract(parts.abstract, parts.shardings))
    return Best(step, checkpoints.keep.best, value, state.best_variables)


def complete(parts: Parts, trained: Trained, stopping: Stopping) -> Trained:
    """Measure the test split at the end of a run whose evaluations were on the validation split: once.

    Raises:
        PreemptedError: a signal came; the same command measures it.
    """
    log, step = trained.log, int(trained.state.step)
    done = any(record["split"] == "test" and record["step"] == step for record in log.records)
    if parts.validator is None or from_first(done):
        return trained
    variables = trained.state.best_variables if trained.best is None else trained.best.variables
    try:
        values = parts.evaluator.metrics(variables, poll=stopping.leave_if_requested)
    except StopRequestedError as error:
        if stopping.gently:
            return trained
        raise PreemptedError(
            f"{error}: stopped at step {step}, saved, before the test; the same command continues from there"
        ) from error
    chosen = {} if trained.best is None else {CHOSEN: trained.best.step}
    log.append({"step": step, "split": "test", **values, **chosen})
    log.sync()
    return trained
