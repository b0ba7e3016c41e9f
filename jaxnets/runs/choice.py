"""What a run chooses by its evaluations: the checkpoint that is kept as the best, and when to end early."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax

from jaxnets.checkpoints.retention import Keep, direction
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError, did_you_mean, note
from jaxnets.core.types import Batch
from jaxnets.steps.state import TrainState
from jaxnets.tasks.base import Task
from jaxnets.training.early_stop import EarlyStop

Mode = Literal["max", "min"]


@dataclasses.dataclass(frozen=True)
class Best:
    """The weights of the best evaluation."""

    step: int
    """Updates done."""
    metric: str
    """By which it is the best."""
    value: float
    """Of that metric, on the split by which the run chose."""
    variables: dict[str, Any]
    """`{"params": ..., ...}`; averaged where the run averages."""

    def __repr__(self) -> str:
        return f"Best(step {self.step}, {self.metric} {self.value:.4g})"


@dataclasses.dataclass(frozen=True)
class Choice:
    """The metrics by which a run chooses, with their directions."""

    keep: Keep
    """The experiment's, with the metric of `stop` where it names none, and its mode decided."""
    stop: EarlyStop
    """The experiment's, with its metric filled in."""
    stop_mode: Mode

    def ends_at(self, records: Sequence[Mapping[str, Any]], split: str) -> int | None:
        """The step at which the run ends early, from the records of its log; None: it goes on."""
        values = [(r["step"], float(r.get(self.stop.metric, "nan"))) for r in records if r["split"] == split]
        return self.stop.ends_at(values, self.stop_mode)


def choice_of(experiment: Experiment, task: Task, abstract: TrainState, batch: Batch) -> Choice:
    """What an experiment chooses by.

    Raises:
        UsageError: a metric is not measured, or its direction is unknown.
    """
    keep, stop = experiment.keep, experiment.stop
    if not experiment.chooses:
        return Choice(keep, stop, "min")
    stop = dataclasses.replace(stop, metric=stop.metric or task.headline)
    if stop.patience and not keep.best:
        keep = dataclasses.replace(keep, best=stop.metric, mode=stop.mode)
    measured = task.derive(dict.fromkeys(jax.eval_shape(task.metrics, abstract.variables, batch), 1.0))
    for field, name in (("keep.best", keep.best), ("stop.metric", stop.metric)):
        if name not in measured and (field == "keep.best" or stop.patience):
            raise UsageError(f"{field} is {name!r}, which is not measured. {did_you_mean(name, measured)}")
    if not 0 < experiment.eval_every < experiment.steps:
        note(f"{keep.best!r} is measured at the end alone; set eval_every to have more to choose from")
    mode = _mode(stop, task.directions) if stop.patience else "min"
    return Choice(keep.resolved(task.directions), stop, mode)


def _mode(stop: EarlyStop, known: Mapping[str, Mode]) -> Mode:
    found = stop.mode if stop.mode != "auto" else known.get(stop.metric) or direction(stop.metric)
    if found is None:
        raise UsageError(
            f"stop.metric is {stop.metric!r}, and nothing says whether more or less of it is better; set stop.mode to 'max' "
            f"or 'min'"
        )
    return found
