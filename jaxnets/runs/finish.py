"""The output at the end of a run: the summary on the console and, in a run directory, the report."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnets.config.experiment import Expected
from jaxnets.config.serialize import apart
from jaxnets.parallel.hosts import from_first, is_first
from jaxnets.report.console import Console
from jaxnets.report.log import CHOSEN
from jaxnets.report.page import PAGE, ReportData, write_report
from jaxnets.runs import exhibits
from jaxnets.runs.directory import RunDirectory
from jaxnets.training.loop import Timing


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
    """Print the summary and write the report of a complete run.

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
    shown = exhibits.of_task(run) if reporting else []
    if not is_first():
        return
    if reporting and directory is not None:
        times = [exhibits.times(seconds, timing), *exhibits.memory()] if trained else []
        shown = [
            *exhibits.rates_of(run),
            *exhibits.health_of(run),
            *shown,
            *exhibits.shown_samples(directory.path),
            *times,
            *exhibits.operations(directory.path),
        ]
    final = {k: v for k, v in run.history.last("test").items() if k not in ("step", "split", CHOSEN)}
    speeds = run.history.series("examples_per_second")[1]
    done, of = int(run.state.step), parts.experiment.total_steps
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
            facts={name: value for name, value in facts.items() if not name.endswith("(s)")},  # those are in a table
            exhibits=shown,
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
        rows.append(("note", "this run was complete already; --overwrite trains it again"))
    closing = f"report: {_short(directory.path / PAGE)}" if directory is not None else ""
    console.summary(words.title, rows, closing)


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
    with contextlib.suppress(OSError, ValueError):  # the working directory may be deleted, or a different one
        return str(path.relative_to(Path.cwd()))
    return str(path)
