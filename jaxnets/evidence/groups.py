"""The trials of a sweep in groups: those that one program can train together, and single ones."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxnets.checkpoints.initial import Initial
from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import to_data
from jaxnets.core.errors import NonFiniteError, UsageError
from jaxnets.core.flatten import flatten
from jaxnets.core.types import Variables
from jaxnets.data.dataset import Dataset
from jaxnets.data.validation import take
from jaxnets.evidence.together import UNTRACEABLE, Together, why_apart
from jaxnets.evidence.trials import SEED, Trial, value_at
from jaxnets.optim.schedules import with_clock
from jaxnets.parallel.mesh import MeshShape, make_mesh
from jaxnets.runs.build import Parts, assemble, clock_of
from jaxnets.runs.run import Run
from jaxnets.runs.stretch import Begun
from jaxnets.runs.train import train

# Numbers of an optimizer that enter its updates as factors, so that float32 arguments give what constants give. (Of others,
# such as b2 = 0.999, the optimizer computes 1 - b2 in 64 bits where they are constants.)
NUMBERS = ("learning_rate", "weight_decay")


class Group(Protocol):
    """Trials that are trained at the same time."""

    trials: list[Trial]
    parts: Parts
    built_in: float
    """Seconds that building it took."""

    def advance(self, share: float) -> None:
        """Continue the training up to a share of the steps."""

    def steps(self, trial: Trial) -> int:
        """Updates that a trial has done."""

    def ended(self) -> Iterator[tuple[Parts, Variables] | str]:
        """For each trial its variables, with the parts that measure them, or the reason of its failure."""

    def measurable(self) -> Mapping[str, Any]:
        """The names of the metrics."""

    def kept(self, chosen: Sequence[int]) -> "Group":
        """Some of the trials, which continue from their current state."""


class _Base:
    """What both kinds have in common."""

    def __init__(self, trials: Sequence[Trial], parts: Parts) -> None:
        self.trials, self.parts, self.built_in = list(trials), parts, 0.0
        self._done = 0

    def steps(self, trial: Trial) -> int:
        """See `Group`."""
        del trial
        return self._done

    def measurable(self) -> Mapping[str, Any]:
        """See `Group`."""
        with jax.set_mesh(self.parts.mesh):
            shapes = jax.eval_shape(self.parts.task.metrics, self.parts.abstract.variables, self.parts.batch_spec)
        return self.parts.task.derive(dict.fromkeys(shapes, 1.0))


class _InOneProgram(_Base):
    """Trials that differ in the seed and in numbers of the optimizer."""

    def __init__(self, trials: Sequence[Trial], parts: Parts, runs: Together) -> None:
        super().__init__(trials, parts)
        self._runs = runs

    def advance(self, share: float) -> None:
        """See `Group`."""
        self._done = steps_at(self.parts.experiment, share)
        self._runs.advance(self._done)

    def ended(self) -> Iterator[tuple[Parts, Variables] | str]:
        """See `Group`."""
        for found in self._runs.variables():
            yield found if isinstance(found, str) else (self.parts, found)

    def kept(self, chosen: Sequence[int]) -> Group:
        """See `Group`."""
        if len(chosen) == len(self.trials):
            return self
        other = _InOneProgram([self.trials[n] for n in chosen], self.parts, self._runs.kept(chosen))
        other._done = self._done
        return other


class _Single(_Base):
    """One trial, trained as `jaxnets.train` does."""

    def __init__(self, trial: Trial, parts: Parts, dataset: Dataset | None, initial: Initial | None) -> None:
        super().__init__([trial], parts)
        self._dataset, self._initial = dataset, initial
        self._run: Run | None = None
        self._failed = ""

    def advance(self, share: float) -> None:
        """See `Group`."""
        experiment = self.trials[0].experiment
        stop = steps_at(experiment, share)
        if self._failed or (self._run is not None and stop <= self._done):
            return
        options: dict[str, Any] = {"initial": self._initial}
        if self._run is not None:
            state = jax.tree.map(jnp.copy, self._run.state)
            options = {"begun": Begun(state, self._done, records=tuple(self._run.history.records))}
        try:
            self._run = train(experiment, dataset=self._dataset, stop_at=stop, progress="none", **options)
        except NonFiniteError as error:
            self._failed = str(error)
        self._done = stop

    def ended(self) -> Iterator[tuple[Parts, Variables] | str]:
        """See `Group`."""
        yield self._failed if self._failed or self._run is None else (self._run.parts, self._run.variables)

    def kept(self, chosen: Sequence[int]) -> Group:
        """See `Group`."""
        del chosen
        return self


def steps_at(experiment: Experiment, share: float) -> int:
    """The updates after a share of an experiment's steps, at least one."""
    return max(1, round(share * experiment.total_steps))


def groups(
    trials: Sequence[Trial],
    dataset: Dataset | None,
    initial: Initial | None,
    *,
    at_once: int,
    say: Callable[[str], None],
) -> Iterator[Group]:
    """The trials in groups, in their order as far as possible. A group is built when the caller takes it from the iterator."""
    for family in _families(trials, dataset):
        for start in range(0, len(family), at_once):
            yield from _built(family[start : start + at_once], dataset, initial, say)


def part_of(trials: Sequence[Trial], part: tuple[int, int], dataset: Dataset | None) -> list[Trial]:
    """The n-th of N parts of the trials, as equal in number as possible. Trials that one program can train stay together.

    Raises:
        UsageError: there are fewer trials than parts.
    """
    number, parts = part
    if parts > len(trials):
        raise UsageError(f"the sweep has {len(trials)} runs, which is fewer than its {parts} parts; make fewer parts")
    if parts == 1:
        return list(trials)
    ordered = [trial for family in _families(trials, dataset) for trial in family]
    return ordered[len(ordered) * (number - 1) // parts : len(ordered) * number // parts]


def _families(trials: Sequence[Trial], dataset: Dataset | None) -> list[list[Trial]]:
    """The trials by what they have in common, see `_family`."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        found.setdefault(_family(trial, dataset), []).append(trial)
    return list(found.values())


def _built(
    some: Sequence[Trial], dataset: Dataset | None, initial: Initial | None, say: Callable[[str], None]
) -> Iterator[Group]:
    """A family as one group, or as single trials."""
    began = time.perf_counter()
    why, experiment = "" if len(some) > 1 else "there is one", some[0].experiment
    # Many small runs are faster each on one device than each split over all devices. A mesh that the user chose stays.
    alone = not why and experiment.mesh == MeshShape() and jax.process_count() == 1
    mesh = make_mesh(MeshShape(), devices=jax.devices()[:1]) if alone else None
    parts = assemble(experiment, dataset, mesh=mesh)
    why = why or ("they begin with given weights" if initial is not None else why_apart(parts))
    why = why or _epochs_differ(parts, {trial.examples for trial in some})
    if not why:
        names = [name for name in some[0].values if _is_number(some[0], name) or name == SEED]
        changes = [{name: value_at(trial.experiment, name) for name in names} for trial in some]
        try:
            total = parts.dataset.card.examples["train"]
            rows = [trial.rows(total) for trial in some]
            runs = Together(parts, changes, rows, devices=jax.devices() if alone else None)
            say(f"{len(some)} runs in one program")
            group: Group = _InOneProgram(some, parts, runs)
            group.built_in = time.perf_counter() - began
            yield group
            return
        except UsageError:
            raise
        except UNTRACEABLE as error:
            said = str(error).splitlines()[0][:120]
            why = f"{', '.join(names)} cannot be arguments of one program ({said})"
    if len(some) > 1:
        say(f"{len(some)} runs one after the other: {why}")
    for number, trial in enumerate(some):
        data = _own_examples(trial, parts.dataset) if trial.examples else dataset
        own = parts if data is dataset and not number and not alone else assemble(trial.experiment, data)
        yield _Single(trial, own, data, initial)


def _own_examples(trial: Trial, dataset: Dataset) -> Dataset:
    """The data with the training examples of one trial; the scaling and the other splits are unchanged."""
    rows = trial.rows(dataset.card.examples["train"])
    assert rows is not None
    learned = dataclasses.replace(dataset.preparation, examples=(len(rows), dataset.preparation.examples[1]))
    return dataclasses.replace(dataset, train=take(dataset.train, rows), learned=learned, divided=True)


def _epochs_differ(parts: Parts, sizes: set[int]) -> str:
    """The reason why runs on this number of examples (0: all) cannot share a program; "": they can."""
    if sizes == {0}:
        return ""
    if parts.dataset.augment.alternates:
        return "their augmentation counts epochs"
    experiment, clock = parts.experiment, clock_of(parts.experiment, parts.dataset)

    def written(examples: int | None) -> list[Any]:
        own = dataclasses.replace(clock, examples=examples or clock.examples)
        return [with_clock(one, own) for one in (experiment.optimizer, experiment.average)]

    return "their schedules count epochs" if any(written(size) != written(None) for size in sizes) else ""


def _family(trial: Trial, dataset: Dataset | None) -> str:
    """The common part of the trials in one program: all but the seed and the swept numbers of the optimizer."""
    experiment = trial.experiment
    data = flatten(to_data(experiment))
    free = {name for name in trial.values if _is_number(trial, name)}
    # If a validation split is drawn, the training examples depend on the seed.
    own = dataset is not None and dataset.validation is not None
    divided = dataset is not None and dataset.divided
    drawn = not divided and (experiment.validation.share or (experiment.chooses and not own))
    free |= set() if drawn else {SEED}
    return json.dumps({name: value for name, value in data.items() if name not in free}, sort_keys=True, default=str)


def _is_number(trial: Trial, name: str) -> bool:
    """Whether a swept field is a number of the optimizer that can be an argument of the program."""
    within, _, field = name.rpartition(".")
    return (
        within.split(".")[0] == "optimizer" and field in NUMBERS and isinstance(value_at(trial.experiment, name), float)
    )
