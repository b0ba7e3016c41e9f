"""What is shown at the end of a run: the summary on the console and, in a run directory, the report."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnets.callbacks.profile import FOLDER, TABLE
from jaxnets.config.experiment import Expected
from jaxnets.config.extension import read_extensions
from jaxnets.config.serialize import apart
from jaxnets.core.types import Exhibit, Gallery, Lines, Table
from jaxnets.data.large import shown as rows_shown
from jaxnets.parallel.hosts import from_first, is_first
from jaxnets.report.console import Console
from jaxnets.report.page import PAGE, ReportData, write_report
from jaxnets.report.plots import read_images
from jaxnets.runs.directory import RunDirectory
from jaxnets.training.loop import Timing

# Field of a test record: updates done at the weights that were measured, where that is not the record's own step.
CHOSEN = "weights_of_step"
# Points of the curve of the learning rate.
MOST_RATES = 500


@dataclasses.dataclass(frozen=True)
class Words:
    """Text of a report that is not part of the run: its title, subtitle and expected score."""

    title: str
    subtitle: str
    expected: Expected | None


def finish(
    run: Any,
    directory: RunDirectory | None,
    console: Console,
    words: Words,
    seconds: float,
    trained: int,
    timing: Timing,
) -> None:
    """Show and write what there is to see of a run that is complete.

    Args:
        run: the `Run`.
        directory: where its report goes, if anywhere.
        console: what shows the summary.
        words: title, subtitle and expected score.
        seconds: that this call took.
        trained: steps that this call did.
        timing: where its time went.
    """
    parts, task = run.parts, run.parts.task
    # A run that was complete already has a report, which also has the training time: keep it.
    reporting = directory is not None and bool(from_first(trained or not (directory.path / PAGE).exists()))
    exhibits = _exhibits(run) if reporting else []
    if not is_first():
        return
    if reporting and directory is not None:
        times = [_times(seconds, timing)] if trained else []
        exhibits = [*_rates(run), *exhibits, *_shown_samples(directory.path), *times, *_operations(directory.path)]
    final = {k: v for k, v in run.history.last("test").items() if k not in ("step", "split", CHOSEN)}
    speeds = run.history.series("examples_per_second")[1]
    done, of = int(run.state.step), parts.experiment.steps
    facts = {"parameters": f"{parts.parameters:,}", "steps": f"{done:,}" if done == of else f"{done:,} of {of:,}"}
    if run.best is not None:
        facts["best step"] = f"{run.best.step:,} ({parts.watched[0]} {run.best.metric} {run.best.value:.4g})"
    if trained:
        facts["seconds to train"] = f"{seconds:.1f}"
        facts["compiling (s)"] = f"{timing.compiling:.1f}"
        facts["waiting for data (s)"] = f"{timing.waiting_for_data:.1f}"
        facts["evaluating (s)"] = f"{timing.in_hooks:.1f}"
        facts["saving (s)"] = f"{timing.saving:.1f}"
    if speeds:
        facts["examples/s"] = f"{max(speeds):,.0f}"
    if directory is not None and directory.quarantine:
        left = [str(batch) for entry in directory.quarantine for batch in entry["batches"]]
        facts["batches left out"] = f"{', '.join(left)} (see quarantine.json)"
    if trained and timing.waiting_for_data > 0.1 * seconds:
        facts["note"] = "more than a tenth of the time went into waiting for data; see --placement"
    verdict = _verdict(final, words.expected)
    if directory is not None and reporting:
        chosen, defaults = apart(directory.read_object("config.json"))
        report = ReportData(
            title=words.title,
            subtitle=f"{words.subtitle} ".lstrip()
            + f"{parts.dataset.name}: {_counts(parts.dataset.card.examples)} examples. Source: {parts.dataset.source}",
            headline=task.headline,
            history=run.history,
            final=final,
            facts=facts,
            exhibits=exhibits,
            config=chosen,
            defaults=defaults,
            environment=directory.read_json("environment.json"),
            expectation=verdict,
        )
        write_report(directory.path, report)
    scores = sorted(((k, v) for k, v in final.items() if k != "examples"), key=lambda kv: kv[0] != task.headline)
    rows = [(f"test {name}", f"{value:.4g}") for name, value in scores]
    rows.append(("test examples", f"{final.get('examples', 0):,.0f}"))
    rows += list(facts.items())
    if verdict:
        rows.append(("expected", verdict))
    if directory is not None:
        rows.append(("run directory", _short(directory.path)))
    if not trained:
        rows.append(("note", "this run was complete already; --overwrite trains it anew"))
    closing = f"report: {_short(directory.path / PAGE)}" if directory is not None else ""
    console.summary(words.title, rows, closing)


def _exhibits(run: Any) -> list[Exhibit]:
    """What the task has to show; on every process, though one writes."""
    parts, task, preparation = run.parts, run.parts.task, run.parts.dataset.preparation
    with jax.set_mesh(parts.mesh):
        seen = task.exhibit_rows(parts.dataset.card.examples["test"])
        shown = rows_shown(parts.dataset.test, seen) | {"index": seen}
        asked = {name: array for name, array in shown.items() if name in preparation.names}
        outputs = parts.predictor(run.variables, asked) if len(seen) else np.zeros(0)
        drawn = task.drawn(run.variables)
    columns = [preparation.columns.table()] if preparation.columns is not None else []
    return [*(task.exhibits(outputs, shown, parts.dataset.card) if len(seen) else ()), *drawn, *columns]


def _times(seconds: float, timing: Timing) -> Table:
    """Where the time of a run went."""
    parts = {
        "compiling": timing.compiling,
        "waiting for data": timing.waiting_for_data,
        "logging and evaluating": timing.in_hooks,
        "copying states for checkpoints": timing.saving,
    }
    parts["training steps, opening the data and the rest"] = max(0.0, seconds - sum(parts.values()))
    rows = [(name, f"{value:.1f}", f"{value / max(seconds, 1e-9):.0%}") for name, value in parts.items()]
    return Table("Where the time went", ("part", "seconds", "share"), (*rows, ("all", f"{seconds:.1f}", "100%")))


def _operations(directory: Path) -> list[Exhibit]:
    """The costliest operations, where steps were profiled."""
    path = directory / FOLDER / TABLE
    try:
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        cells = tuple(
            (str(r["operation"]), f"{r['calls']}", f"{r['milliseconds']:.2f}", f"{r['share']:.1%}") for r in rows
        )
    except (OSError, ValueError, TypeError, KeyError):  # a report is worth more than this table
        return []
    return [Table("The costliest operations", ("operation", "calls", "ms", "share"), cells)] if cells else []


def _rates(run: Any) -> list[Exhibit]:
    """The learning rate over the steps, where it is known."""
    steps = int(run.state.step)
    if run.directory is not None and read_extensions(
        run.directory
    ):  # its earlier steps had the rates of another length
        return []
    rates = run.experiment.optimizer.rates(run.experiment.steps, steps) if steps > 1 else None
    if rates is None:
        return []
    at = np.unique(np.linspace(0, steps - 1, MOST_RATES).astype(int))
    return [Lines("Learning rate", at, rates[at][None, None], ("learning rate",), ("",), "step", "learning rate")]


def _shown_samples(directory: Path) -> list[Exhibit]:
    """What callbacks showed while the run trained (`Progress.show`): up to eight pictures or texts of each name, over time."""
    shown: list[Exhibit] = []
    folder = directory / "samples"
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        files = sorted((file for file in place.iterdir() if file.stem.isdigit()), key=lambda file: int(file.stem))
        few = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, 8).astype(int))] if files else []
        texts = [(file.stem, file.read_text(encoding="utf-8")) for file in few if file.suffix == ".txt"]
        if texts:
            shown.append(Table(f"{place.name} over time", ("step", "text"), tuple(texts)))
        pictures = [file for file in few if file.suffix == ".png"]
        if pictures:
            images = read_images(pictures)
            if len({image.shape for image in images}) == 1:
                captions = tuple(f"step {file.stem}" for file in pictures)
                shown.append(Gallery(f"{place.name} over time", np.stack(images), captions))
    return shown


def _counts(examples: Mapping[str, int]) -> str:
    """The sizes of the splits: "80 training, 10 validation and 10 test"."""
    names = {"train": "training", "validation": "validation", "test": "test"}
    *first, last = [f"{examples[split]:,} {name}" for split, name in names.items() if split in examples]
    return f"{', '.join(first)} and {last}"


def _verdict(final: dict[str, float], expected: Expected | None) -> str:
    if expected is None or expected.metric not in final:
        return ""
    reached = "reached" if expected.reached(final[expected.metric]) else "not reached"
    return f"{expected} with the configuration as shipped: {reached}"


def _short(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):  # the working directory may be gone, or elsewhere
        return str(path.relative_to(Path.cwd()))
    return str(path)
