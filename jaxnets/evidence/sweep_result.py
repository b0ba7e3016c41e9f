"""The result of a sweep: a line for each run, a table of the settings with the best first, a picture."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnets.core.errors import DataError, UsageError
from jaxnets.evidence.paired import interval
from jaxnets.evidence.trials import SEED, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = "results.jsonl"
# Fields of an outcome that hold metrics, which may be NaN (JSON has no NaN).
NUMBERS = ("metrics", "training")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run of a sweep."""

    values: Mapping[str, Any]
    """The swept fields by dotted name, as plain data."""
    digest: str
    """Digest of the experiment with these values."""
    steps: int
    """Updates done; fewer than the experiment has if the run was stopped early."""
    metrics: Mapping[str, float]
    """Metrics on the split of the sweep; {} if the run failed."""
    failed: str = ""
    """The reason of a failure."""
    split: str = "test"
    """The split on which they were measured."""
    seconds: float = 0.0
    """Wall time, compilation included; of runs in one program an equal share for each."""
    parameters: int = 0
    """Numbers in the model's parameters; 0 in a result that an older version wrote."""
    training: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Metrics on the run's own training examples; {} if they were not measured."""

    @property
    def setting(self) -> str:
        """The values without the seed, as text."""
        return ", ".join(f"{name}={shown(value)}" for name, value in self.values.items() if name != SEED)


@dataclasses.dataclass(frozen=True)
class Setting:
    """The runs of one setting, which differ by their seeds."""

    values: Mapping[str, Any]
    """The values without the seed."""
    scores: tuple[float, ...]
    """Scores of the runs that succeeded."""
    failed: int
    """Number of the runs that failed."""
    steps: int
    """Updates of the longest."""
    level: float = 0.95

    @property
    def mean(self) -> float:
        """The mean score; NaN where no run ended."""
        return interval(self.scores, self.level)[0]

    @property
    def half(self) -> float:
        """Half of the width of its interval over the seeds; NaN for one seed."""
        return interval(self.scores, self.level)[1]


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """The runs of a sweep and their ranking."""

    outcomes: tuple[Outcome, ...]
    """In the order of the trials."""
    metric: str
    """The metric by which settings are ranked."""
    better: str
    """max or min."""

    @property
    def split(self) -> str:
        """The split that was measured."""
        return self.outcomes[0].split

    @property
    def settings(self) -> list[Setting]:
        """The settings, the best mean first; those that were stopped early come after those that were trained longer, and a
        setting of which a run failed after those without."""
        groups: dict[str, list[Outcome]] = {}
        for one in self.outcomes:
            groups.setdefault(one.setting, []).append(one)
        found = []
        for runs in groups.values():
            values = {name: value for name, value in runs[0].values.items() if name != SEED}
            scores = [one.metrics[self.metric] for one in runs if self.metric in one.metrics]
            finite = tuple(score for score in scores if math.isfinite(score))
            found.append(Setting(values, finite, len(runs) - len(finite), max(one.steps for one in runs)))
        sign = -1 if self.better == "max" else 1
        return sorted(found, key=lambda s: (not s.scores, s.failed, -s.steps, sign * s.mean if s.scores else 0.0))

    @property
    def best(self) -> dict[str, Any]:
        """The values of the best setting; raises `UsageError` if every run failed."""
        first = self.settings[0]
        if not first.scores:
            raise UsageError(f"every run of the sweep failed: {self.outcomes[0].failed}")
        return dict(first.values)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: the swept fields, mean and interval of the metric, seeds, steps."""
        names = [name for name in self.outcomes[0].values if name != SEED]
        header = [*names, f"{self.split} {self.metric}", "seeds", "steps"]
        rows = []
        for one in self.settings:
            half = f" ± {one.half:.2g}" if math.isfinite(one.half) else ""
            score = f"{one.mean:.4g}{half}" if one.scores else "failed"
            seeds = f"{len(one.scores)}" + (f", {one.failed} failed" if one.failed and one.scores else "")
            rows.append([*(shown(one.values[name]) for name in names), score, seeds, str(one.steps)])
        return header, rows

    def notes(self) -> list[str]:
        """Caveats, in sentences."""
        first, *others = self.settings
        found = []
        if others and first.scores:
            found.append(
                f"the best of {len(others) + 1} settings looks better than it is: measure it again with new seeds "
                f"(`jaxnets compare`)"
            )
        if others and self.split == "test":
            found.append(
                "settings were ranked on the test split, which is then no longer unseen; set examples aside "
                "(--validation.share)"
            )
        return found

    def picture(self) -> "Figure":
        """Parallel coordinates: an axis for each swept field and one for the metric, a line for each run."""
        from jaxnets.report.evidence_plots import parallel_coordinates

        names = list(self.outcomes[0].values)
        rows = [
            ([one.values[name] for name in names], one.metrics[self.metric])
            for one in self.outcomes
            if math.isfinite(one.metrics.get(self.metric, math.nan))
        ]
        labelled = [([v if isinstance(v, int | float) else shown(v) for v in values], s) for values, s in rows]
        return parallel_coordinates(names, labelled, f"{self.split} {self.metric}", better=self.better)

    def __str__(self) -> str:
        return "\n".join([*lined(*self.table()), *self.notes()])


def lined(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text, its columns below each other."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)]


def written(outcome: Outcome) -> str:
    """An outcome as one line of JSON."""
    numbers = {
        field: {name: value if math.isfinite(value) else None for name, value in getattr(outcome, field).items()}
        for field in NUMBERS
    }
    return json.dumps(dataclasses.asdict(outcome) | numbers)


def read(path: Path) -> list[Outcome]:
    """The outcomes in a file; one that was cut while its last line was written is read up to there.

    Raises:
        DataError: another line is none.
    """
    if not path.exists():
        return []
    found: list[Outcome] = []
    lines: Sequence[str] = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        try:
            data = json.loads(line)
            numbers = {
                field: {name: math.nan if value is None else float(value) for name, value in data[field].items()}
                for field in NUMBERS
                if field in data or field == "metrics"
            }
            found.append(Outcome(**{**data, **numbers}))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if number == len(lines) - 1:
                break
            raise DataError(f"{path}, line {number + 1}, is not a result of a sweep ({error}); remove it") from error
    return found
