"""The loop: the only one in the repository.

It dispatches the next call before it reads the metrics of the previous one, so the device never waits for the host, and
it reads nothing from the device in between. Whatever else must happen (logging, evaluation, saving) is a hook, and hooks
run in the order they are given, at the steps they ask for.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import jax
import numpy as np

from jaxnets.data.feed import prefetch
from jaxnets.errors import NonFiniteError, UsageError
from jaxnets.training.program import Program

# name -> (sums, weights), one entry of each for every step: the metrics of a call, on the host.
StepMetrics = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Moment:
    """What a hook is told."""

    step: int
    """Updates done."""
    state: Any
    """The state after them; read it, do not keep it (the next call donates it)."""


@dataclasses.dataclass(frozen=True)
class Every:
    """The steps that are multiples of a number (0: none are), and some more."""

    steps: int
    also: tuple[int, ...] = ()
    """Further due steps: the last one of the run, usually."""

    def next_after(self, step: int) -> int | None:
        """The first due step after `step`, or None."""
        due = [at for at in self.also if at > step]
        if self.steps > 0:
            due.append((step // self.steps + 1) * self.steps)
        return min(due, default=None)


class Hook(Protocol):
    """Something that happens at certain steps."""

    def next_after(self, step: int) -> int | None:
        """The first step after `step` at which `run` is due, or None. Must not depend on anything but `step`."""

    def observe(self, first_step: int, metrics: StepMetrics) -> None:
        """The metrics of steps `first_step + 1, ...`, in order; every step is observed before `run` at or after it."""

    def run(self, moment: Moment) -> None:
        """Act on the state at a due step."""


def fit(
    program: Program,
    state: Any,
    *,
    start: int,
    stop: int,
    hooks: Sequence[Hook] = (),
    on_nonfinite: Literal["halt", "skip"] = "halt",
    prefetch_depth: int = 0,
) -> Any:
    """Train from step `start` to step `stop` and return the state there.

    Args:
        program: the compiled steps and the feed that brings their batches.
        state: the state after `start` updates; it is copied first and stays the caller's.
        start: updates done already.
        stop: updates done when it returns.
        hooks: run in this order at the steps they ask for.
        on_nonfinite: what a step with a NaN or infinite loss or gradient does. Its update is never applied; `halt`
            raises `NonFiniteError`, `skip` goes on.
        prefetch_depth: payloads loaded ahead by a thread; 0 loads them in between (right for resident data).

    Raises:
        UsageError: nothing to do.
        NonFiniteError: see `on_nonfinite`.
    """
    if stop <= start:
        raise UsageError(f"there are no steps to train: the run is at step {start} and is to stop at {stop}")
    state = program.adopt(state)
    plan = _plan(start, stop, program.capacity, hooks)
    unread: tuple[int, int, Any] | None = None
    # Every transfer below is asked for by name; one that slipped in unseen would stall each step.
    with (
        jax.transfer_guard("disallow"),
        contextlib.closing(prefetch(program.feed, plan, capacity=program.capacity, depth=prefetch_depth)) as payloads,
    ):
        for position, count, payload in payloads:
            state, metrics = program(state, payload, count)
            # Only now, with the next work on its way, read what the previous call measured.
            if unread is not None:
                _deliver(unread, hooks, on_nonfinite)
            unread = (position, count, metrics)
            step = position + count
            due = [hook for hook in hooks if hook.next_after(position) == step]
            if due:
                _deliver(unread, hooks, on_nonfinite)
                unread = None
                for hook in due:
                    hook.run(Moment(step, state))
        if unread is not None:
            _deliver(unread, hooks, on_nonfinite)
    return state


def _plan(start: int, stop: int, capacity: int, hooks: Sequence[Hook]) -> Iterator[tuple[int, int]]:
    """(first step, number of steps) of each call: as many as fit, cut where a hook is due."""
    step = start
    while step < stop:
        due = [at for at in (hook.next_after(step) for hook in hooks) if at is not None]
        count = min(capacity, stop - step, *(at - step for at in due))
        yield step, count
        step += count


def _deliver(unread: tuple[int, int, Any], hooks: Sequence[Hook], on_nonfinite: str) -> None:
    first, count, metrics = unread
    read = {
        name: (np.asarray(mean.sum)[:count], np.asarray(mean.weight)[:count])
        for name, mean in jax.device_get(metrics).items()
    }
    for hook in hooks:
        hook.observe(first, read)
    if on_nonfinite == "halt":
        check_finite(first, read)


def check_finite(first_step: int, metrics: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Raise `NonFiniteError` for the first step that was not finite."""
    bad = np.zeros(0, bool)
    if "skipped" in metrics:
        bad = metrics["skipped"][0] > 0
    elif "loss" in metrics:
        bad = ~np.isfinite(metrics["loss"][0])
    if bad.any():
        offset = int(np.flatnonzero(bad)[0])
        values = {name: float(sums[offset] / weights[offset]) for name, (sums, weights) in metrics.items()}
        shown = ", ".join(f"{name} {value:g}" for name, value in values.items() if name != "skipped")
        raise NonFiniteError(
            f"step {first_step + offset + 1} is not finite ({shown}); its batch is number {first_step + offset} and its "
            f"update was left out. Lower the learning rate, clip the gradient (optimizer.clip_norm), or train on with "
            f"on_nonfinite='skip'"
        )
