"""The result of a curve over the number of examples or over a field: its points, a table, a law, a picture."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnets.checkpoints.retention import direction
from jaxnets.core.errors import UsageError
from jaxnets.evidence.error_parts import BiasVariance
from jaxnets.evidence.law import Law, fit_law
from jaxnets.evidence.paired import interval
from jaxnets.evidence.sweep_result import lined
from jaxnets.evidence.trials import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Point:
    """The runs of one value, which differ by their seeds."""

    value: Any
    """The number of training examples, or the value of the field."""
    size: float | None
    """The size over which a law is fitted; None: there is none."""
    parameters: int
    """Numbers in the model's parameters."""
    seeds: tuple[int, ...]
    """The seeds of the runs that ended with finite numbers."""
    training: tuple[float, ...]
    """The metric of each run on its own training examples."""
    held_out: tuple[float, ...]
    """The metric of each run on the held-out split."""
    failed: int
    """Number of the other runs."""
    split: BiasVariance | None
    """The parts of the squared error of their predictions; None for tasks without, or for one run."""

    @property
    def mean(self) -> float:
        """The mean of the metric on the held-out split; NaN if no run succeeded."""
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
    """Name of the metric that was measured."""
    watched: str
    """The held-out split."""
    counts: str
    """The unit of `Point.size`: "examples", "parameters", "steps", "tokens"; "": there is no size."""
    error: str
    """The error that is split into bias and variance: "Brier score" or "squared error"; "": there is no such error."""
    about: tuple[str, ...] = ()
    """Notes about how the runs were made."""

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
        """Caveats, in sentences."""
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
            found.append(
                "predictions of some runs are missing, so the error is not split; remove the results to train again"
            )
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
        return "\n".join([*lined(*self.table()), *self.notes()])
