"""The results of `benchmarks.techniques` compared: paired differences with intervals, a table, a picture."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.techniques_list import GROUPS, pairs
from benchmarks.techniques_recipes import BASELINE, RECIPES, Recipe, Technique
from jaxnets.evidence import interval

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PICTURE = DOCS / "techniques.md", DOCS / "images" / "techniques.png"
BEGIN, END = "<!-- measured effects: begin -->", "<!-- measured effects: end -->"

Rows = Mapping[tuple[str, str, int], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean of paired differences."""

    mean: float
    """Positive where the technique is better."""
    half: float
    """Half of the width of the 95 % interval."""
    p: float
    """Probability of a mean at least as far from 0, if there were no effect."""
    pairs: int
    """Differences."""

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside of the interval."""
        return abs(self.mean) > self.half


def paired(values: Sequence[float], others: Sequence[float]) -> Difference | None:
    """The mean of `values - others` with its 95 % interval by Student's t; None for fewer than two pairs."""
    differences = np.subtract(values, others, dtype=np.float64)
    count = len(differences)
    if count < 2:
        return None
    mean, half = interval(differences.tolist())
    error = float(differences.std(ddof=1) / math.sqrt(count))
    if error == 0:
        return Difference(mean, 0.0, 1.0 if mean == 0 else 0.0, count)
    return Difference(mean, half, float(2 * stats.t.sf(abs(mean) / error, count - 1)), count)


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses Holm's procedure rejects: the chance of even one false rejection is at most `level` (Holm 1979)."""
    order, rejected = np.argsort(p_values, kind="stable"), [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a technique did on a recipe."""

    recipe: Recipe
    technique: Technique
    values: tuple[float, ...]
    """The metric of each run that ended, in the unit of the table."""
    failed: int
    """Runs that were not finite."""
    difference: Difference | None
    """In the unit of the table; None for the baseline, and where there are too few pairs."""
    cost: float | None
    """Training time as a multiple of the baseline's: the median over the seeds, divided by that of the baseline's own runs, in
    which the few steps between the pieces of a run take a little longer or shorter than its own."""


def effects(rows: Rows) -> list[Effect]:
    """The effects for which there are runs, in the order of the list."""
    found = []
    for recipe, technique in pairs():
        runs = {seed: row for (r, t, seed), row in rows.items() if (r, t) == (recipe.name, technique.name)}
        other = {seed: row for (r, t, seed), row in rows.items() if (r, t) == (recipe.name, technique.against)}
        if not runs:
            continue
        scale = recipe.scale if recipe.better == "higher" else -recipe.scale
        both = sorted(s for s in runs.keys() & other.keys() if None not in (runs[s]["value"], other[s]["value"]))
        difference = paired([scale * runs[s]["value"] for s in both], [scale * other[s]["value"] for s in both])
        cost = _median_cost(rows, recipe, technique.name)
        own = _median_cost(rows, recipe, BASELINE)
        ended = [recipe.scale * row["value"] for _, row in sorted(runs.items()) if row["value"] is not None]
        found.append(
            Effect(
                recipe=recipe,
                technique=technique,
                values=tuple(ended),
                failed=len(runs) - len(ended),
                difference=None if technique.name == BASELINE else difference,
                cost=None if cost is None or own is None else cost / own,
            )
        )
    return found


def _median_cost(rows: Rows, recipe: Recipe, name: str) -> float | None:
    """The median over the seeds of the measured cost; None where no run has one."""
    costs = [row["cost"] for (r, t, _), row in rows.items() if (r, t) == (recipe.name, name) and "cost" in row]
    return float(np.median(costs)) if costs else None


def written(rows: Rows) -> str:
    """The table in Markdown, with what it takes to read it."""
    found = effects(rows)
    if not found:
        return "No runs yet."
    tested = [one for one in found if one.difference is not None]
    sure = holm([one.difference.p for one in tested])
    after_holm = {id(one) for one, yes in zip(tested, sure, strict=True) if yes}
    recipes = [recipe for recipe in RECIPES if any(one.recipe is recipe for one in found)]
    cells = {(one.recipe.name, one.technique.name): _cells(one, id(one) in after_holm) for one in found}
    lines = ["| technique | " + " | ".join(f"{recipe.name}: {recipe.unit} | time" for recipe in recipes) + " |"]
    lines.append("| --- |" + " --- | --- |" * len(recipes))
    for group, techniques in GROUPS.items():
        by_name = {technique.name: technique for technique in techniques}
        listed = [name for name in by_name if any((recipe.name, name) in cells for recipe in recipes)]
        if listed:
            lines.append(f"| *{group}* |" + " |" * (2 * len(recipes)))
        for name in listed:
            against = "" if by_name[name].against == BASELINE else f" (against {by_name[name].against})"
            parts = [" | ".join(cells.get((recipe.name, name), ("", ""))) for recipe in recipes]
            lines.append(f"| {name}{against} | " + " | ".join(parts) + " |")
    return "\n".join([*_counts(tested, len(after_holm)), "", *lines])


def _counts(tested: Sequence[Effect], after_holm: int) -> list[str]:
    """How many intervals there are and how many of them mean nothing, in sentences."""
    out = [one.difference for one in tested if one.difference is not None and one.difference.excludes_zero]
    seeds = sorted({one.difference.pairs for one in tested if one.difference is not None})
    better = sum(difference.mean > 0 for difference in out)
    return [
        f"{len(tested)} effects, each from {' to '.join(map(str, sorted({*seeds[:1], *seeds[-1:]}))) or 'no'} pairs of runs. "
        f"{len(out)} of the intervals leave out 0 ({better} better, {len(out) - better} worse); about "
        f"{0.05 * len(tested):.0f} would if nothing had any effect. {after_holm} still do after Holm's correction for the "
        f"whole table, and have a dagger."
    ]


def _cells(one: Effect, dagger: bool) -> tuple[str, str]:
    """An effect and its cost as cells of the table."""
    lost = f"not finite in {one.failed} of {one.failed + len(one.values)}" if one.failed else ""
    cost = "" if one.cost is None else f"{one.cost:.2f}"
    if one.technique.name == BASELINE:
        spread = f" (deviation {np.std(one.values, ddof=1):.2g})" if len(one.values) > 1 else ""
        return f"{np.mean(one.values):.4g}{spread}", cost
    if one.difference is None:
        return lost or "one run", cost
    text = f"{one.difference.mean:+.{_digits(one)}f} ± {one.difference.half:.{_digits(one)}f}"
    text = f"**{text}**" if one.difference.excludes_zero else text
    return f"{text}{' †' if dagger else ''}{', ' + lost if lost else ''}", cost


def _digits(one: Effect) -> int:
    """Decimals of a recipe's numbers: those of a loss in nats are small."""
    return 3 if one.recipe.scale == 1 else 2


def draw(found: Sequence[Effect], path: Path) -> None:
    """A panel for each recipe: dots with intervals, the best technique at the top."""
    from matplotlib.figure import Figure

    recipes = [recipe for recipe in RECIPES if any(one.recipe is recipe and one.difference for one in found)]
    panels = {r.name: [one for one in found if one.recipe is r and one.difference is not None] for r in recipes}
    tallest = max(len(panel) for panel in panels.values())
    figure = Figure(figsize=(5 * len(recipes), 1.6 + 0.2 * tallest), layout="constrained")
    for axes, recipe in zip(np.atleast_1d(figure.subplots(1, len(recipes))), recipes, strict=True):
        panel = sorted(panels[recipe.name], key=lambda one: one.difference.mean)
        reach = 3 * float(np.median([abs(one.difference.mean) + one.difference.half for one in panel])) or 1.0
        axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
        for height, one in enumerate(panel):
            _mark(axes, one.difference, height, reach)
        axes.set_yticks(range(len(panel)), [one.technique.name for one in panel], fontsize=7)
        axes.set_ylim(-0.8, len(panel) - 0.2)
        axes.set_xlim(-1.05 * reach, 1.05 * reach)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_title(recipe.name, fontsize=9)
        axes.set_xlabel(f"worse  ←  {recipe.unit}  →  better", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _mark(axes: Any, difference: Difference, height: int, reach: float) -> None:
    """One dot with its interval, or an arrow and the number where the dot is beyond the axis."""
    sign = 1 if difference.mean > 0 else -1
    colour = "0.5" if not difference.excludes_zero else "#0072B2" if sign > 0 else "#D55E00"
    if abs(difference.mean) > reach:
        axes.plot(sign * reach, height, marker=">" if sign > 0 else "<", color=colour, markersize=5)
        place = {"ha": "right" if sign > 0 else "left", "va": "center", "fontsize": 6.5, "color": colour}
        axes.text(sign * 0.95 * reach, height, f"{difference.mean:+.3g} ± {difference.half:.2g}", **place)
        return
    axes.errorbar(difference.mean, height, xerr=difference.half, fmt="o", color=colour, markersize=3.5, linewidth=1.2)


def write_docs(rows: Rows, page: Path = PAGE, picture: Path = PICTURE) -> None:
    """Write the table between the markers of the page, and draw the picture."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no lines {BEGIN} and {END}; put them where the table goes")
    found = effects(rows)
    recipes = [f"- **{recipe.name}**: {recipe.what}; {recipe.unit}." for recipe in RECIPES]
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(recipes) + f"\n\n{written(rows)}\n{END}{after}")
    if any(one.difference for one in found):
        draw(found, picture)
