"""The error over the number of training examples, or over a field of the experiment, each from several seeds."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.core.files import user_path
from jaxnets.data.dataset import Dataset
from jaxnets.data.validation import with_validation
from jaxnets.evidence.counted import counted_trials
from jaxnets.evidence.curve_result import Curve, Point
from jaxnets.evidence.error_parts import BiasVariance, scored
from jaxnets.evidence.predictions import Seen
from jaxnets.evidence.search import Plan, given, run_trials
from jaxnets.evidence.sweep_result import Outcome
from jaxnets.evidence.trials import SEED, Trial, trials, with_field
from jaxnets.runs.build import clock_of
from jaxnets.tasks.base import bound

RESULTS = "curve.jsonl"
EXAMPLES = "examples"
# Fields that change what a run is measured on, or that a curve sets itself.
NOT_OVER = ("data", "validation", SEED)


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
    """Train an experiment with several numbers of training examples, or values of a field, and measure how the error changes.

    Every run has the same number of steps, so runs with fewer examples use each of them more often. The examples of a run
    are drawn by its seed; those of a smaller run are among those of a larger one with the same seed. All are scaled by the
    statistics of the whole training split.

    Args:
        what: an `Experiment`, or a dict of arguments of `fit`.
        examples: how many training examples, a number for each point; with `over` one number, for all points.
        over: instead, a field of the experiment by its dotted name, with its values.
        seeds: how many (from that of the experiment on), or which.
        metric: what is measured, on the training examples of a run and on the validation split, or else the test split.
        at_once: most runs in one program.
        directory: where results and predictions are kept; runs that are there already are not run again.
        progress: whether to print progress.

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
    made = counted_trials(made, dataset)
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
    """The variable of the curve, and its trials: the seeds of one value after the other.

    Raises:
        UsageError: a number of examples that there are not, or nothing to compare.
    """
    sizes = sorted({examples} if isinstance(examples, int) else set(examples))
    for size in sizes:
        if not isinstance(size, int) or not 1 <= size <= total:
            raise UsageError(
                f"examples are whole numbers from 1 to those of the training split ({total}), got {size!r}; give sizes up to "
                f"{total}"
            )
    if not over:
        if len(sizes) < 2:
            raise UsageError(
                "a curve needs two numbers of examples or more (examples=[50, 100, 200]), or over={FIELD: [...]}"
            )
        pairs = [(size, seed) for size in sizes for seed in seeds]
        made = [Trial({EXAMPLES: n, SEED: s}, with_field(experiment, SEED, s)) for n, s in pairs]
        return EXAMPLES, [_of_examples(one, one.values[EXAMPLES]) for one in made]
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
    return name, [_of_examples(one, sizes[0]) for one in made] if sizes else made


def _of_examples(trial: Trial, examples: int) -> Trial:
    """A trial on the given number of training examples; if they are fewer than a batch, each batch has all of them."""
    batch = min(trial.experiment.batch_size, examples)
    return dataclasses.replace(
        trial, examples=examples, experiment=dataclasses.replace(trial.experiment, batch_size=batch)
    )


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
    """The points with their sizes, and the unit of the sizes."""
    parameters = [one.parameters for one in points]
    sizes: Sequence[float | None] = [None] * len(points)
    counts = ""
    if name == EXAMPLES:
        counts, sizes = EXAMPLES, [one.value for one in points]
    elif name == "steps":
        tokens = clock_of(made[0].experiment, dataset).tokens
        each = (tokens or 0) * made[0].experiment.batch_size
        counts, sizes = ("tokens" if each else "steps"), [one.experiment.total_steps * (each or 1) for one in made]
    elif len(set(parameters)) == len(points):
        counts, sizes = "parameters", parameters
    return [dataclasses.replace(one, size=size) for one, size in zip(points, sizes, strict=True)], counts


def _about(name: str, made: Sequence[Trial], dataset: Dataset) -> tuple[str, ...]:
    """How the runs were made, in sentences."""
    total, sizes = dataset.card.examples["train"], {one.examples for one in made}
    found = [] if name == "steps" else [f"every run has {made[0].experiment.total_steps:,} steps"]
    batch = max(one.experiment.batch_size for one in made)
    if name != "batch_size" and min(sizes - {0}, default=batch) < batch:
        found.append(f"runs with fewer examples than a batch ({batch}) have all of them in each")
    if sizes == {0}:
        found.append("the runs of a value have the same training examples: they differ by weights, order and draws")
    elif total in sizes:
        found.append(
            f"the runs with all {total:,} examples have the same ones, so their variance excludes that of drawing them"
        )
    return tuple(found)
