"""What each technique of training changes in the result, and what it costs: one at a time, on fixed recipes.

    python -m benchmarks.techniques                                  # everything that is not in the results yet
    python -m benchmarks.techniques --only images/flip text --seeds 3
    python -m benchmarks.techniques --workers 2                      # two processes, each on a core of its own
    python -m benchmarks.techniques --write-docs                     # runs nothing: table and picture from the results

`techniques_recipes.py` has the recipes, `techniques_list.py` the techniques. Each run is one technique with one seed, trained
by the library's own `train` and measured at its end; it adds a line to `results/techniques.jsonl`. A run whose line is there
is not run again, unless its experiment has changed since. `techniques_report.py` compares runs of the same seed.

Between the pieces of a run a few steps of the recipe's baseline are run and timed, so that other load on the machine affects
both alike. The ratio of the two processor times is the cost. Every process stays on one core.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from benchmarks.techniques_list import pairs
from benchmarks.techniques_recipes import Recipe, Technique
from benchmarks.techniques_report import write_docs, written
from jaxnets.callbacks.callback import Callback, Progress
from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import digest
from jaxnets.core.errors import JaxnetsError, NonFiniteError
from jaxnets.data.dataset import Dataset, Source
from jaxnets.runs.build import assemble
from jaxnets.runs.train import train
from jaxnets.training.loop import fit

RESULTS = Path(__file__).parent / "results" / "techniques.jsonl"
# A run is timed in this many pieces. The first holds the compilation, the last the evaluation: neither counts.
PIECES = 10
# Share of the baseline's steps that is run after each piece.
SHARE = 0.02
# Processor seconds of a run before any was measured, for the first estimates.
GUESS = 10.0


@functools.lru_cache(maxsize=2)
def opened(source: Source) -> Dataset:
    """The data of a recipe, read once for all its runs."""
    return source.open()


class Speedometer:
    """More and more steps of a recipe's baseline, timed."""

    def __init__(self, recipe: Recipe) -> None:
        self.steps = max(1, round(SHARE * recipe.experiment.steps))
        self._parts = assemble(recipe.experiment, opened(recipe.experiment.data))
        self._at = 0
        with jax.set_mesh(self._parts.mesh):
            self._state = self._parts.fresh_state()
        self.seconds()  # compiled here

    def seconds(self) -> float:
        """Processor seconds of `steps` more steps."""
        began = time.process_time()
        with jax.set_mesh(self._parts.mesh):
            self._state = fit(self._parts.program, self._state, start=self._at, stop=self._at + self.steps, hooks=[])
            jax.block_until_ready(self._state)
        self._at += self.steps
        return time.process_time() - began


class Timed(Callback):
    """Times the pieces of a run, and the baseline after each of them."""

    def __init__(self, baseline: Speedometer, steps: int) -> None:
        self.every = max(1, steps // PIECES)
        self._baseline = baseline
        self._began: float | None = None
        self._pieces: list[float] = []
        self._baselines: list[float] = []

    def at(self, run: Progress) -> None:
        """See `Callback`."""
        jax.block_until_ready(run.variables)
        if run.step == run.steps:
            return
        if self._began is not None:
            self._pieces.append(time.process_time() - self._began)
        self._baselines.append(self._baseline.seconds())
        self._began = time.process_time()

    def per_step(self) -> tuple[float, float] | None:
        """Mean processor seconds of a step of the run and of the baseline; None for a run too short to say."""
        if not self._pieces:
            return None
        own = sum(self._pieces) / len(self._pieces) / self.every
        return own, sum(self._baselines) / len(self._baselines) / self._baseline.steps


def experiment_of(recipe: Recipe, technique: Technique, seed: int) -> Experiment:
    """What a run trains: a log record for each piece, and an evaluation at the end only."""
    changed = technique.change(dataclasses.replace(recipe.experiment, seed=seed))
    return dataclasses.replace(changed, log_every=max(1, changed.steps // PIECES))


@functools.lru_cache
def _digest(recipe: Recipe, technique: Technique) -> str:
    """Eight hex digits that change with what is trained, whatever the seed."""
    return digest(experiment_of(recipe, technique, 0))


def measure(recipe: Recipe, technique: Technique, seed: int, baseline: Speedometer) -> dict[str, Any]:
    """Train once; the line for the results. `value` is None where the loss or a gradient was not finite."""
    experiment = experiment_of(recipe, technique, seed)
    timed, began = Timed(baseline, experiment.steps), time.process_time()
    row: dict[str, Any] = {"recipe": recipe.name, "technique": technique.name, "seed": seed}
    row |= {"digest": _digest(recipe, technique), "metric": recipe.metric, "value": None, "steps": experiment.steps}
    try:
        done = train(experiment, dataset=opened(experiment.data), hooks=(timed,), progress="none")
    except NonFiniteError as error:
        row["failed"] = str(error)[:200]
    else:
        row["value"] = float(done.history.last("test")[recipe.metric])
        losses = done.history.series("loss")[1]
        row["train_loss"] = round(losses[-1], 5) if losses else None
    if (times := timed.per_step()) is not None:
        own, base = times
        row |= {"step_ms": round(1e3 * own, 4), "baseline_step_ms": round(1e3 * base, 4)}
        row["cost"] = round(own * experiment.steps / (base * recipe.experiment.steps), 4)
    return row | {"seconds": round(time.process_time() - began, 1)}


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of the results; one that was cut off while it was written is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def current(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The newest line of each (recipe, technique, seed), where the experiment is still the one that was run."""
    known, found = {(recipe.name, technique.name): (recipe, technique) for recipe, technique in pairs()}, {}
    for row in rows:
        listed = known.get((row["recipe"], row["technique"]))
        if listed and _digest(*listed) == row["digest"]:
            found[row["recipe"], row["technique"], row["seed"]] = row
    return found


def chosen(only: Iterable[str]) -> list[tuple[Recipe, Technique]]:
    """The pairs that are meant by "recipe", "recipe/technique" or "/technique"; raises `SystemExit` for an unknown one."""
    known = pairs()
    wanted = [tuple(name.partition("/")[::2]) for name in only]
    for recipe, technique in wanted:
        if not any(recipe in ("", r.name) and technique in ("", t.name) for r, t in known):
            raise SystemExit(f"{recipe}/{technique} is no recipe/technique; see benchmarks/techniques_list.py")
    return [(r, t) for r, t in known if not wanted or any(a in ("", r.name) and b in ("", t.name) for a, b in wanted)]


def left(selected: list[tuple[Recipe, Technique]], seeds: int) -> list[tuple[Recipe, Technique, int]]:
    """The runs that have no line in the results."""
    done = current(read(RESULTS))
    every = [(recipe, technique, seed) for recipe, technique in selected for seed in range(seeds)]
    return [(r, t, seed) for r, t, seed in every if (r.name, t.name, seed) not in done]


def stay_on_one_core(number: int) -> None:
    """Keep this process on one core, where the system can: the results then don't depend on how many there are."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


def work(runs: list[tuple[Recipe, Technique, int]]) -> int:
    """Do these runs one after another; returns how many could not be done."""
    seconds = {recipe.name: [GUESS] for recipe, _, _ in runs}
    for row in read(RESULTS):
        seconds.setdefault(row["recipe"], [GUESS]).append(row.get("seconds", GUESS))
    speedometers: dict[str, Speedometer] = {}
    wrong, began, busy = 0, time.perf_counter(), time.process_time()
    stamp = {"date": datetime.date.today().isoformat(), "jax": jax.__version__}
    for number, (recipe, technique, seed) in enumerate(runs):
        try:
            if recipe.name not in speedometers:
                speedometers = {recipe.name: Speedometer(recipe)}  # those before it are done, and need no memory
            row = measure(recipe, technique, seed, speedometers[recipe.name])
        except JaxnetsError as error:
            wrong += 1
            print(f"{recipe.name}/{technique.name}, seed {seed}: not run, {error}", flush=True)
            continue
        with RESULTS.open("a") as file:
            file.write(json.dumps(row | stamp) + "\n")
        seconds[recipe.name].append(row["seconds"])
        # The guess counts as one more run, so the first estimates don't jump. Other load makes all take longer.
        rest = sum(sum(seconds[r.name]) / len(seconds[r.name]) for r, _, _ in runs[number + 1 :])
        rest *= (time.perf_counter() - began) / (time.process_time() - busy)
        value = "not finite" if row["value"] is None else f"{recipe.metric} {row['value'] * recipe.scale:.4g}"
        print(
            f"{number + 1}/{len(runs)} {recipe.name}/{technique.name}, seed {seed}: {value}, cost {row.get('cost')}, "
            f"{row['seconds']} s of the processor; {rest / 60:.0f} min left",
            flush=True,
        )
    return wrong


def start_workers(count: int, arguments: list[str]) -> int:
    """The same command in several processes, each with its share; the number of those that failed."""
    command = [sys.executable, "-m", "benchmarks.techniques", *arguments]
    running = [subprocess.Popen([*command, "--share", f"{number}/{count}"]) for number in range(count)]
    return sum(process.wait() != 0 for process in running)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="RECIPE/TECHNIQUE", help="also RECIPE or /TECHNIQUE")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each technique (5)")
    parser.add_argument("--workers", type=int, default=1, help="processes, each on a core of its own (1)")
    parser.add_argument("--share", default="", help=argparse.SUPPRESS)
    parser.add_argument(
        "--write-docs", action="store_true", help="run nothing; write docs/techniques.md and its picture"
    )
    options = parser.parse_args()
    if options.write_docs:
        write_docs(current(read(RESULTS)))
        return
    selected = chosen(options.only)
    failed = 0
    if options.workers > 1 and not options.share:
        given = [*(["--only", *options.only] if options.only else []), "--seeds", str(options.seeds)]
        failed = start_workers(options.workers, given)
    else:
        number, of = map(int, (options.share or "0/1").split("/"))
        stay_on_one_core(number)
        with tempfile.TemporaryDirectory() as folder:
            # The evaluation is the same program for every seed; a training step is not, as its seed is a constant in it.
            jax.config.update("jax_compilation_cache_dir", folder)
            failed = work(left(selected[number::of], options.seeds))
    if not options.share:
        print(written(current(read(RESULTS))))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
