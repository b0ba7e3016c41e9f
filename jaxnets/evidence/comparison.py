"""Two experiments compared: both are trained with the same seeds, and their difference has an interval."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.evidence.paired import Paired, Verdict, in_words, paired_by_seed
from jaxnets.evidence.search import Plan, given, run_trials
from jaxnets.evidence.sweep_result import SweepResult
from jaxnets.evidence.trials import SEED, changed_fields, trials

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The difference of two experiments, estimated from their runs."""

    paired: Paired
    """The scores, a pair for each seed for which both runs succeeded."""
    metric: str
    """Name of the metric that was measured."""
    split: str
    """The split on which it was measured."""
    seeds: tuple[int, ...]
    """The seeds of the pairs."""
    failed: Mapping[str, int]
    """Runs of A and of B that failed."""
    changed: tuple[str, ...]
    """The fields that differ, a line for each; a class that differs is one of them."""

    @property
    def mean(self) -> float:
        """The mean of B - A."""
        return self.paired.mean

    @property
    def half(self) -> float:
        """Half of the width of its 95 % interval."""
        return self.paired.half

    @property
    def verdict(self) -> Verdict:
        """B compared with A: "better", "worse", or "unclear" if the interval contains 0."""
        return self.paired.verdict

    def notes(self) -> list[str]:
        """Caveats, in sentences."""
        found = []
        if len(self.changed) > 1:
            found.append(
                f"{len(self.changed)} fields differ, so the difference cannot be attributed to one of them: "
                f"{'; '.join(self.changed[:8])}"
            )
        if not self.changed:
            found.append("A and B are the same experiment: their difference is due to chance alone")
        found += [
            f"{count} runs of {who} failed; their seeds are left out" for who, count in self.failed.items() if count
        ]
        return found

    def picture(self) -> "Figure":
        """The scores as dots, those of one seed joined, and the mean difference with its interval."""
        from jaxnets.report.evidence_plots import paired_dots

        found = self.paired
        return paired_dots(
            found.first,
            found.second,
            f"{self.split} {self.metric}",
            mean=found.mean,
            half=found.half,
            says=self.verdict,
        )

    def __str__(self) -> str:
        return "\n".join([in_words(self.paired, f"{self.split} {self.metric}"), *self.notes()])


def compare(
    a: Experiment | Mapping[str, Any],
    b: Experiment | Mapping[str, Any],
    *,
    seeds: int | Sequence[int] = 5,
    metric: str = "",
    at_once: int = 32,
    directory: str | Path | None = None,
    progress: Literal["lines", "none"] = "lines",
) -> Comparison:
    """Train two experiments with the same seeds and test whether their difference is more than chance.

    Args:
        a: an `Experiment`, or a dict of arguments of `fit`.
        b: the other one. It should differ in one field.
        seeds: how many (from that of `a` on), or which.
        metric: what is compared; by default the headline of a's task. It is measured on the validation split if there is one,
            else on the test split.
        at_once: most runs in one program.
        directory: where the results are kept, in its folders `a` and `b`; runs that are there already are not run again.
        progress: whether to say what is run.

    Raises:
        UsageError: fewer than two seeds; B does not measure the metric of A.
    """
    first, second = given(a), given(b)
    listed = list(range(first[0].seed, first[0].seed + seeds)) if isinstance(seeds, int) else list(seeds)
    if len(set(listed)) < 2:
        raise UsageError(f"an interval takes two seeds or more, got {seeds!r}")
    results: list[SweepResult] = []
    for who, (experiment, dataset, initial) in {"a": first, "b": second}.items():
        plan = Plan(at_once=at_once, metric=metric or (results[0].metric if results else ""), progress=progress)
        folder = None if directory is None else Path(directory) / who
        made = trials(experiment, {SEED: listed})
        results.append(run_trials(made, plan, dataset=dataset, initial=initial, directory=folder))
    return compared(results[0], results[1], changed_fields(first[0], second[0]))


def compared(first: SweepResult, second: SweepResult, changed: Sequence[str]) -> Comparison:
    """The comparison of two sweeps over seeds."""
    if first.split != second.split:
        raise UsageError(
            f"A is measured on the {first.split} split and B on the {second.split} split; set examples aside in both or none"
        )
    scores: list[dict[int, float]] = []
    for one in (first, second):
        ended = [outcome for outcome in one.outcomes if first.metric in outcome.metrics]
        scores.append({int(outcome.values[SEED]): outcome.metrics[first.metric] for outcome in ended})
    paired = paired_by_seed(scores[0], scores[1], cast(Literal["max", "min"], first.better))
    return Comparison(
        paired,
        first.metric,
        first.split,
        tuple(seed for seed in scores[0] if seed in scores[1]),
        {who: sum(bool(o.failed) for o in one.outcomes) for who, one in (("A", first), ("B", second))},
        tuple(changed),
    )
