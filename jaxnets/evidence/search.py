"""A sweep: many short trainings of one experiment with other settings, in few programs."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from jaxnets.checkpoints.initial import Initial
from jaxnets.checkpoints.retention import direction
from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import to_data
from jaxnets.core import streams
from jaxnets.core.errors import UsageError, did_you_mean
from jaxnets.core.files import user_path
from jaxnets.core.types import Variables
from jaxnets.data.dataset import Dataset
from jaxnets.evidence.counted import counted_trials
from jaxnets.evidence.groups import Group, groups, part_of
from jaxnets.evidence.halving import halved
from jaxnets.evidence.results import WHOLE, Part, check_part, keep_results, known_results, part_file
from jaxnets.evidence.sweep_result import RESULTS, Outcome, SweepResult
from jaxnets.evidence.trials import Range, Trial, trials
from jaxnets.runs.arguments import as_experiment
from jaxnets.runs.build import Parts, assemble

# Called with a finished run; returns its metrics on its training examples.
Look = Callable[[Trial, Parts, Variables], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the trials of a sweep are run."""

    halving: int = 0
    """Successive halving: settings are compared after a part of their steps, and one of this many continues; 0: all are
    trained."""
    at_once: int = 32
    """Most runs in one program; their states are in memory together. 1: each run in a separate program."""
    metric: str = ""
    """The metric by which settings are ranked; "": the task's headline."""
    progress: Literal["lines", "none"] = "lines"
    """Whether to print progress."""
    part: Part = WHOLE
    """(n, N): only the n-th of N parts of the runs is trained; parts may run at the same time on different machines."""

    def __post_init__(self) -> None:
        if self.halving and self.halving < 2:
            raise UsageError(f"halving keeps one setting of 2 or more, or is 0; got {self.halving}")
        if self.at_once < 1:
            raise UsageError(f"at_once is at least 1, got {self.at_once}")
        check_part(self.part)
        if self.halving and self.part != WHOLE:
            raise UsageError(
                "successive halving compares all settings with each other, so it has no parts; leave halving or part out"
            )


def sweep(
    what: Experiment | Mapping[str, Any],
    values: Mapping[str, Sequence[Any] | Range],
    *,
    random: int = 0,
    draws: int = 0,
    halving: int = 0,
    metric: str = "",
    at_once: int = 32,
    directory: str | Path | None = None,
    progress: Literal["lines", "none"] = "lines",
    part: Part = WHOLE,
) -> SweepResult:
    """Train an experiment with other values of its fields and rank them.

    Runs that differ in the seed and in numbers of the optimizer are trained in one program if this is possible; others one
    after the other. Only the numbers of a run are saved.

    Args:
        what: an `Experiment`, or a dict of arguments of `fit` (`{"model": ..., "data": ...}`).
        values: what to try, by the dotted name of a field of the experiment: a list, or a `Range` with `random`.
        random: settings to draw, instead of the grid of all; each is run with every value of `seed`.
        draws: root of this drawing.
        halving: keep one of so many settings after each part of the steps (successive halving, Jamieson and Talwalkar 2016,
            arXiv:1502.07943); 0: train all to the end.
        metric: what settings are ranked by; by default the task's headline. It is measured on the validation split if there is
            one, else on the test split.
        at_once: most runs in one program.
        directory: where results are kept, a line of JSON for each run; runs that are there already are not run again.
        progress: whether to say what is run.
        part: `(n, N)` trains the n-th of N parts, for N machines that share the directory or whose results are copied into
            one; the result has the runs of this part. The same call without it then has all of them.

    Raises:
        JaxnetsError: a bad field or value, experiment or data, before anything is trained.
    """
    experiment, dataset, initial = given(what)
    made = trials(experiment, values, random=random, draws=draws)
    plan = Plan(halving, at_once, metric, progress, part)
    return run_trials(made, plan, dataset=dataset, initial=initial, directory=directory)


def given(what: Experiment | Mapping[str, Any]) -> tuple[Experiment, Dataset | None, Initial | None]:
    """The experiment from the user's argument: an experiment, or the arguments of `fit`."""
    if isinstance(what, Experiment):
        return what, None, None
    if not isinstance(what, Mapping) or not {"model", "data"} <= what.keys():
        raise UsageError(
            f"give an Experiment, or the arguments of fit as a dict with 'model' and 'data'; got {type(what).__name__}"
        )
    return as_experiment(**what)


def run_trials(
    made: Sequence[Trial],
    plan: Plan,
    *,
    dataset: Dataset | None = None,
    initial: Initial | None = None,
    directory: str | Path | None = None,
    file: str = RESULTS,
    look: Look | None = None,
) -> SweepResult:
    """Run the trials that have no result in the directory yet, and give the results of all.

    Args:
        made: the trials.
        plan: how they are run.
        dataset: the data, where they are not to be opened from the experiment.
        initial: weights to begin with.
        directory: where results are kept.
        file: the name of the file there.
        look: called with each run that ended, before its result is kept.
    """
    say: Callable[[str], None] = streams.say if plan.progress == "lines" else lambda text: None
    folder = None if directory is None else user_path(directory)
    made = part_of(counted_trials(made, dataset), plan.part, dataset)
    names = [trial.name for trial in made]
    wanted = dict(zip(names, made, strict=True))
    known = {} if folder is None else known_results(folder, file, wanted, stopped=bool(plan.halving))
    if plan.halving and len(known) < len(set(names)):
        known = {}  # settings are compared with each other, so all are run again
    waiting = [trial for trial, name in zip(made, names, strict=True) if name not in known]
    if known:
        say(f"{len(made) - len(waiting)} of {len(made)} runs have their results in {folder}")
    keep = functools.partial(keep_results, None if folder is None else folder / part_file(file, plan.part))
    measure = functools.partial(outcomes, look=look)
    if waiting:
        found = groups(waiting, dataset, initial, at_once=plan.at_once, say=say)
        first = next(found)
        ranking = _ranking(first, plan.metric)
        if plan.halving:
            ran = halved([first, *found], plan.halving, *ranking, measure=measure)
            keep(ran)
        else:
            ran = _whole(first, found, measure, keep, say)
        known |= {one.digest: one for one in ran}
    else:
        ranking = _ranking_of(assemble(made[0].experiment, dataset).task, plan.metric, known[names[0]].metrics)
    return SweepResult(tuple(known[name] for name in names), *ranking)


def _whole(
    first: Group,
    rest: Any,
    measure: Callable[..., list[Outcome]],
    keep: Callable[..., None],
    say: Callable[[str], None],
) -> list[Outcome]:
    """Train group after group to the end; the results of each are saved when it is done."""
    done: list[Outcome] = []
    group: Group | None = first
    while group is not None:
        began = time.perf_counter()
        group.advance(1.0)
        ran = measure(group, time.perf_counter() - began + group.built_in)
        keep(ran)
        done += ran
        say(f"{len(done)} done, {sum(one.seconds for one in done):.1f} s")
        group = next(rest, None)
    return done


def outcomes(group: Group, seconds: float, look: Look | None = None) -> list[Outcome]:
    """The outcomes of the runs of a group, measured now."""
    found = []
    for trial, ended in zip(group.trials, group.ended(), strict=True):
        metrics: dict[str, float] = {}
        training: dict[str, float] = {}
        if not isinstance(ended, str):
            parts, variables = ended
            with jax.set_mesh(parts.mesh):
                metrics = _floats(parts.watched[1].metrics(variables))
                training = _floats(look(trial, parts, variables)) if look else {}
        found.append(
            Outcome(
                {name: _plain(value) for name, value in trial.values.items()},
                trial.name,
                group.steps(trial),
                metrics,
                ended if isinstance(ended, str) else "",
                group.parts.watched[0],
                round(seconds / len(group.trials), 3),
                group.parts.parameters,
                training,
            )
        )
    return found


def _floats(numbers: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items()}


def _plain(value: Any) -> Any:
    """A value as it is saved: objects by the name of their class."""
    return type(value).__name__ if dataclasses.is_dataclass(value) else to_data(value)


def _ranking(group: Group, wanted: str) -> tuple[str, str]:
    """The metric that settings are ranked by, and its direction."""
    return _ranking_of(group.parts.task, wanted, group.measurable())


def _ranking_of(task: Any, wanted: str, measured: Mapping[str, Any]) -> tuple[str, str]:
    metric = wanted or task.headline
    if wanted and measured and wanted not in measured:
        raise UsageError(f"metric is {wanted!r}, which is not measured. {did_you_mean(wanted, measured)}")
    mode = task.directions.get(metric) or direction(metric)
    if mode is None:
        raise UsageError(f"nothing says whether more or less of {metric!r} is better; rank by another metric")
    return metric, mode
