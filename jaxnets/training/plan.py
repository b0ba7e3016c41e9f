"""Due steps of hooks and saves, and the plan of a run's dispatches, which is made once and executed by the loop."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from jaxnets.training.guards import StepMetrics


@dataclasses.dataclass(frozen=True)
class Moment:
    """The step and the state that a hook runs at."""

    step: int
    """Updates done."""
    state: Any
    """The state after them; read it, do not keep it (the next call donates it)."""
    pending: tuple[str, ...] = ()
    """Names of the hooks that were due here and were postponed, because the run is to stop."""


@dataclasses.dataclass(frozen=True)
class Every:
    """The steps that are multiples of a number (0: none), and some further ones."""

    steps: int
    also: tuple[int, ...] = ()
    """Further due steps: the last one of the run, usually."""

    def is_multiple(self, step: int) -> bool:
        """Whether a step is due by its number, and not for another reason."""
        return self.steps > 0 and step % self.steps == 0

    def next_after(self, step: int) -> int | None:
        """The first due step after `step`, or None."""
        due = [at for at in self.also if at > step]
        if self.steps > 0:
            due.append((step // self.steps + 1) * self.steps)
        return min(due, default=None)


class Hook(Protocol):
    """Something that happens at certain steps."""

    name: str
    """The name under which a checkpoint lists it as pending."""

    def next_after(self, step: int) -> int | None:
        """The first step after `step` at which `run` is due, or None. Must not depend on anything but `step`."""

    def observe(self, first_step: int, metrics: StepMetrics) -> None:
        """The metrics of steps `first_step + 1, ...`, in order; every step is observed before `run` at or after it."""

    def run(self, moment: Moment) -> None:
        """Run at a due step. May raise `StopRequestedError`; then it runs again when the run resumes."""


class Saver(Protocol):
    """Saves the state: at certain steps, by the clock, and when the run is to stop."""

    def next_after(self, step: int) -> int | None:
        """The first step after `step` at which to save, or None."""

    def wants_now(self) -> bool:
        """Whether a save is due by the clock."""

    def improved(self, step: int) -> bool:
        """Whether the metrics of a step are a reason to save there; the same on every process."""

    def run(self, moment: Moment) -> None:
        """Save."""

    def finish(self) -> None:
        """Return when all is on the disk; raise if it is not."""

    def clear_pending(self, moment: Moment) -> None:
        """Record that the hooks which were pending at this step have run."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One dispatch, and the hooks and saves due after it; planned before the run, so that nothing is computed twice."""

    first: int
    """Updates done before it."""
    count: int
    """Steps it runs."""
    due: tuple[Hook, ...]
    """Hooks that run after it."""
    save: bool
    """Whether a save is due after it."""

    @property
    def last(self) -> int:
        """Updates done after it."""
        return self.first + self.count


def plan(start: int, stop: int, capacity: int, hooks: Sequence[Hook], saver: Saver | None) -> Iterator[Call]:
    """The calls of a run: each of as many steps as fit, cut where a hook or a save is due."""
    step = start
    while step < stop:
        next_save = saver.next_after(step) if saver else None
        wanted = [(hook, hook.next_after(step)) for hook in hooks]
        last = min(step + capacity, stop, *(at for at in (next_save, *(at for _, at in wanted)) if at is not None))
        yield Call(step, last - step, tuple(hook for hook, at in wanted if at == last), next_save == last)
        step = last
