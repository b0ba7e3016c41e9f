"""The choices of a run by its evaluations: the best checkpoint, early stopping, reductions of the learning rate."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax

from jaxnets.checkpoints.retention import Keep, direction
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError, did_you_mean, note
from jaxnets.core.types import Batch
from jaxnets.optim.plateau import Plateau, plateau_of
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
    """The metric by which it is the best."""
    value: float
    """Of that metric, on the split by which the run chose."""
    variables: dict[str, Any]
    """`{"params": ..., ...}`; averaged if the run averages."""

    def __repr__(self) -> str:
        return f"Best(step {self.step}, {self.metric} {self.value:.4g})"


@dataclasses.dataclass(frozen=True)
class Choice:
    """The metrics by which a run chooses, with their directions."""

    keep: Keep
    """The experiment's `keep`, with the metric of `stop` if it has none, and with its direction."""
    stop: EarlyStop
    """The experiment's, with its metric filled in."""
    stop_mode: Mode
    plateau: Plateau | None = None
    """The `Plateau` that reduces the learning rate, if there is one."""
    plateau_mode: Mode = "min"

    def ends_at(self, records: Sequence[Mapping[str, Any]], split: str) -> int | None:
        """The step at which the run ends early, from the records of its log; None: it continues."""
        return self.stop.ends_at(_values(records, split, self.stop.metric), self.stop_mode)

    def reductions(self, records: Sequence[Mapping[str, Any]], split: str) -> int:
        """How often `Plateau` has reduced the learning rate, from the records of the log."""
        if self.plateau is None:
            return 0
        values = (value for _, value in _values(records, split, self.plateau.metric))
        return self.plateau.reductions(values, self.plateau_mode)


def _values(records: Sequence[Mapping[str, Any]], split: str, metric: str) -> list[tuple[int, float]]:
    """`(step, value)` of a metric in the evaluations of a split; NaN if it is not measured."""
    return [(r["step"], float(r.get(metric, "nan"))) for r in records if r["split"] == split]


def choice_of(experiment: Experiment, task: Task, abstract: TrainState, batch: Batch) -> Choice:
    """The metrics and directions by which an experiment makes its choices.

    Raises:
        UsageError: a metric is not measured, or its direction is unknown.
    """
    keep, stop = experiment.keep, experiment.stop
    if not experiment.chooses:
        return Choice(keep, stop, "min")
    stop = dataclasses.replace(stop, metric=stop.metric or task.headline)
    if stop.patience and not keep.best:
        keep = dataclasses.replace(keep, best=stop.metric, mode=stop.mode)
    plateau = plateau_of(experiment.optimizer)
    measured = task.derive(dict.fromkeys(jax.eval_shape(task.metrics, abstract.variables, batch), 1.0))
    by = {"keep.best": keep.best, "stop.metric": stop.metric if stop.patience else ""}
    by |= {} if plateau is None else {"Plateau.metric": plateau.metric}
    for field, name in by.items():
        if name and name not in measured:
            raise UsageError(f"{field} is {name!r}, which is not measured. {did_you_mean(name, measured)}")
    if not 0 < experiment.eval_every < experiment.total_steps:
        name = next(filter(None, by.values()))
        note(f"{name!r} is measured at the end only; set eval_every to have more to choose from")
    mode = _mode("stop", stop, task.directions) if stop.patience else "min"
    other = "min" if plateau is None else _mode("Plateau", plateau, task.directions)
    return Choice(keep.resolved(task.directions), stop, mode, plateau, other)


def _mode(who: str, chooser: EarlyStop | Plateau, known: Mapping[str, Mode]) -> Mode:
    found = chooser.mode if chooser.mode != "auto" else known.get(chooser.metric) or direction(chooser.metric)
    if found is None:
        raise UsageError(
            f"{who}.metric is {chooser.metric!r}, and nothing says whether more or less of it is better; set {who}.mode to "
            f"'max' or 'min'"
        )
    return found
