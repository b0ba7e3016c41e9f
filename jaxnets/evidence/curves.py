"""The error over the number of training examples, or over a field of the experiment, each from several seeds."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxnets.checkpoints.retention import direction
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.core.files import user_path
from jaxnets.data.dataset import Dataset
from jaxnets.data.validation import with_validation
from jaxnets.evidence.error_parts import BiasVariance, scored
from jaxnets.evidence.law import Law, fit_law
from jaxnets.evidence.paired import interval
from jaxnets.evidence.predictions import Seen
from jaxnets.evidence.search import Plan, given, run_trials
from jaxnets.evidence.sweep_result import Outcome
from jaxnets.evidence.trials import SEED, Trial, shown, trials, with_field
from jaxnets.runs.build import clock_of
from jaxnets.tasks.base import bound

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = "curve.jsonl"
EXAMPLES = "examples"
# Fields that change what a run is measured on, or that a curve sets itself.
NOT_OVER = ("data", "validation", SEED)


@dataclasses.dataclass(frozen=True)
class Point:
    """The runs of one value, which differ by their seeds."""

    value: Any
    """The number of training examples, or the value of the field."""
    size: float | None
    """What a law is fitted over; None: nothing."""
    parameters: int
    """Numbers in the model's parameters."""
    seeds: tuple[int, ...]
    """Of the runs that ended with finite numbers."""
    training: tuple[float, ...]
    """The metric of each on the training examples that it saw."""
    held_out: tuple[float, ...]
    """And on the split that is watched."""
    failed: int
    """Runs that did not end so."""
    split: BiasVariance | None
    """The parts of the squared error of their predictions; None for tasks without, or for one run."""

    @property
    def mean(self) -> float:
        """Of the metric on the split that is watched; NaN where no run ended."""
        return interval(self.held_out)[0]

    @property
    def half(self) -> float:
        """Half of the width of its 95 % interval over the seeds; NaN for one."""
        return interval(self.held_out)[1]

    @property
    def fitted(self) -> float:
        """The mean of the metric on the training examples."""
        return interval(self.training)[0]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A learning curve, or a curve over a field."""

    over: str
    """"examples", or the dotted name of the field."""
    points: tuple[Point, ...]
    """In the order of the values; of examples in rising order."""
    metric: str
    """What was measured."""
    watched: str
    """On which split."""
    counts: str
    """What `Point.size` counts: "examples", "parameters", "steps", "tokens"; "": nothing."""
    error: str
    """What the bias and the variance are those of: "Brier score" or "squared error"; "": there is no such error."""
    about: tuple[str, ...] = ()
    """What to keep in mind of how the runs were made."""

    def law(self) -> Law:
        """`metric = floor + scale * size ** -exponent` over the sizes, with intervals; see `evidence.law`.

        Raises:
            UsageError: fewer than three sizes, no size to fit over, or a metric of which more is better.
        """
        if not self.counts:
            raise UsageError(
                f"a law is over a size, and {self.over} changes neither the number of parameters nor that of steps; use "
                f"examples=, or a field of the model's size"
            )
        if direction(self.metric) == "max":
            raise UsageError(f"a law is of an error, and more of {self.metric} is better; use metric='loss'")
        all_of = [dict(zip(one.seeds, one.held_out, strict=True)) for one in self.points]
        seeds = [seed for seed in all_of[0] if all(seed in one for one in all_of)]
        losses = np.array([[one[seed] for one in all_of] for seed in seeds])
        sizes = [float(one.size or 0) for one in self.points]
        what = f"{self.watched} {self.metric}"
        return fit_law(sizes, losses.reshape(len(seeds), len(sizes)), over=self.counts, what=what)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: value, training and held-out metric, the squared error and its parts, seeds."""
        sized = self.counts == "parameters"
        split = any(one.split for one in self.points)
        header = [
            self.over,
            *(["parameters"] * sized),
            f"training {self.metric}",
            f"{self.watched} {self.metric}",
            *([self.error, "bias^2", "variance"] * split),
            "seeds",
        ]
        rows = []
        for one in self.points:
            half = f" ± {one.half:.2g}" if math.isfinite(one.half) else ""
            parts = one.split and (one.split.error, one.split.bias, one.split.variance)
            rows.append(
                [
                    shown(one.value),
                    *([f"{one.parameters:,}"] * sized),
                    f"{one.fitted:.4g}" if one.seeds else "failed",
                    f"{one.mean:.4g}{half}" if one.seeds else "failed",
                    *([f"{part:.4g}" for part in parts] if parts else ["-"] * 3 * split),
                    f"{len(one.seeds)}" + (f", {one.failed} failed" if one.failed else ""),
                ]
            )
        return header, rows

    def notes(self) -> list[str]:
        """What to keep in mind, in sentences."""
        found = list(self.about)
        if not self.error:
            found.append("the task has no predictions whose squared error could be split into bias and variance")
        elif any(one.split for one in self.points):
            found.append(
                f"{self.error} = bias^2 + variance over the seeds; bias^2 holds the noise of the targets as well"
            )
        elif max(len(one.seeds) for one in self.points) < 2:
            found.append("one seed gives no interval and no variance; take five")
        else:
            found.append("predictions of some runs are missing, so nothing is split; remove the results to train again")
        return found

    def picture(self, law: Law | None = None) -> "Figure":
        """The metric on training and held-out examples, with its interval and a law, and beside it bias and variance."""
        from jaxnets.report.curve_plots import error_over_size

        found = [one.value if one.size is None else one.size for one in self.points]
        plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
        return error_over_size(
            [float(value) for value in found] if plain else list(range(len(found))),
            [shown(one.value) for one in self.points],
            self.over if self.counts in ("", self.over) else f"{self.over}, by {self.counts}",
            metric=self.metric,
            split=self.watched,
            training=[one.training for one in self.points],
            held_out=[one.held_out for one in self.points],
            halves=[one.half for one in self.points],
            parts=[one.split and (one.split.bias, one.split.variance) for one in self.points],
            error=self.error,
            law=law and law.at,
        )

    def __str__(self) -> str:
        header, rows = self.table()
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)]
        return "\n".join([*lines, *self.notes()])


def curve(
    what: Experiment | Mapping[str, Any],
    *,
    examples: int | Sequence[int] = (),
    over: Mapping[str, Sequence[Any]] | None = None,
    seeds: int | Sequence[int] = 5,
    metric: str = "loss",
    at_once: int = 32,
    directory: str | Path | None = None,
    progress: Literal["lines", "none"] = "lines",
) -> Curve:
    """Train an experiment with several numbers of training examples, or values of a field, and say how the error changes.

    Every run has the same number of steps, so those with fewer examples see each of them more often. The examples of a run
    are drawn by its seed; those of a smaller run are among those of a larger one with the same seed. All are scaled by the
    statistics of the whole training split.

    Args:
        what: an `Experiment`, or a dict of arguments of `fit`.
        examples: how many training examples, a number for each point; with `over` one number, for all points.
        over: instead, a field of the experiment by its dotted name, with its values.
        seeds: how many (from that of the experiment on), or which.
        metric: what is measured, on the examples that a run saw and on the validation split, or else the test split.
        at_once: most runs in one program.
        directory: where results and predictions are kept; runs that are there already are not run again.
        progress: whether to say what is run.

    Raises:
        JaxnetsError: bad arguments, experiment or data, before anything is trained.
    """
    experiment, dataset, initial = given(what)
    listed = list(range(experiment.seed, experiment.seed + seeds)) if isinstance(seeds, int) else list(seeds)
    if not listed or len(set(listed)) < len(listed):
        raise UsageError(f"seeds are one or more, each once, got {seeds!r}")
    dataset = dataset if dataset is not None else experiment.data.open()
    # Set aside once, so that all runs are measured on the same examples.
    dataset = with_validation(dataset, experiment.validation, seed=experiment.seed, needed=experiment.chooses)
    name, made = planned(experiment, examples, over, listed, total=dataset.card.examples["train"])
    watched = "test" if dataset.validation is None else "validation"
    split = scored(bound(experiment.task, dataset.card), dataset, watched)
    seen = Seen(dataset.card.examples["train"], split, None if directory is None else user_path(directory))
    plan = Plan(at_once=at_once, metric=metric, progress=progress)
    found = run_trials(made, plan, dataset=dataset, initial=initial, directory=directory, file=RESULTS, look=seen)
    points = []
    for start in range(0, len(made), len(listed)):
        trial, some = made[start], found.outcomes[start : start + len(listed)]
        ended = [one for one in some if math.isfinite(one.metrics.get(found.metric, math.nan))]
        predicted = seen.of([one.digest for one in ended]) if split is not None and len(ended) > 1 else None
        parts = split.parts(predicted) if split is not None and predicted is not None else None
        points.append(_point(name, trial, some, ended, found.metric, parts))
    points, counts = _sized(name, points, made[:: len(listed)], dataset)
    about = _about(name, made, dataset)
    return Curve(name, tuple(points), found.metric, found.split, counts, split.name if split else "", about)


def planned(
    experiment: Experiment,
    examples: int | Sequence[int],
    over: Mapping[str, Sequence[Any]] | None,
    seeds: Sequence[int],
    *,
    total: int,
) -> tuple[str, list[Trial]]:
    """What the curve is over, and its trials: the seeds of one value after the other.

    Raises:
        UsageError: a number of examples that there are not, that is less than a batch, or nothing to compare.
    """
    sizes = sorted({examples} if isinstance(examples, int) else set(examples))
    for size in sizes:
        if not isinstance(size, int) or not experiment.batch_size <= size <= total:
            raise UsageError(
                f"examples are whole numbers from batch_size ({experiment.batch_size}) to those of the training split "
                f"({total}), got {size!r}; set another batch_size, which is the same for all runs"
            )
    if not over:
        if len(sizes) < 2:
            raise UsageError(
                "a curve needs two numbers of examples or more (examples=[50, 100, 200]), or over={FIELD: [...]}"
            )
        pairs = [(size, seed) for size in sizes for seed in seeds]
        made = [Trial({EXAMPLES: n, SEED: s}, with_field(experiment, SEED, s), examples=n) for n, s in pairs]
        return EXAMPLES, made
    if len(over) != 1 or len(sizes) > 1:
        raise UsageError(
            f"a curve is over one thing, got over={list(over)} and examples={sizes}; with over=, examples is one number or is "
            f"left out"
        )
    (name, values), *_ = over.items()
    if name.split(".")[0] in NOT_OVER:
        raise UsageError(
            f"all runs of a curve are measured on the same examples, and have seeds=; use sweep for {name}"
        )
    made = trials(experiment, {name: values, SEED: seeds})
    if len(made) == len(seeds):
        raise UsageError(f"a curve needs two values of {name} or more, got {list(values)}")
    return name, [dataclasses.replace(one, examples=sizes[0] if sizes else 0) for one in made]


def _point(
    name: str, trial: Trial, some: Sequence[Outcome], ended: Sequence[Outcome], metric: str, parts: BiasVariance | None
) -> Point:
    return Point(
        value=trial.values[name],
        size=None,
        parameters=some[0].parameters,
        seeds=tuple(int(one.values[SEED]) for one in ended),
        training=tuple(one.training.get(metric, math.nan) for one in ended),
        held_out=tuple(one.metrics[metric] for one in ended),
        failed=len(some) - len(ended),
        split=parts,
    )


def _sized(name: str, points: Sequence[Point], made: Sequence[Trial], dataset: Dataset) -> tuple[list[Point], str]:
    """The points with their sizes, and what these count."""
    parameters = [one.parameters for one in points]
    sizes: Sequence[float | None] = [None] * len(points)
    counts = ""
    if name == EXAMPLES:
        counts, sizes = EXAMPLES, [one.value for one in points]
    elif name == "steps":
        tokens = clock_of(made[0].experiment, dataset).tokens
        each = (tokens or 0) * made[0].experiment.batch_size
        counts, sizes = ("tokens" if each else "steps"), [one.value * (each or 1) for one in points]
    elif len(set(parameters)) == len(points):
        counts, sizes = "parameters", parameters
    return [dataclasses.replace(one, size=size) for one, size in zip(points, sizes, strict=True)], counts


def _about(name: str, made: Sequence[Trial], dataset: Dataset) -> tuple[str, ...]:
    """How the runs were made, in sentences."""
    total, sizes = dataset.card.examples["train"], {one.examples for one in made}
    found = [] if name == "steps" else [f"every run has {made[0].experiment.steps:,} steps"]
    if sizes == {0}:
        found.append("the runs of a value have the same training examples: they differ by weights, order and draws")
    elif total in sizes:
        found.append(
            f"the runs with all {total:,} examples have the same ones, so their variance has no part of the drawing"
        )
    return tuple(found)
