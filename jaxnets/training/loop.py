"""The loop: the only one in the repository.

It dispatches the next call before it reads the metrics of the previous one, so the device never waits for the host, and
it reads nothing from the device in between. All other work (logging, evaluation) is done by hooks, which run in the given
order at the steps that they define. Saving comes last, so for a checkpoint of step k all hooks due at k have run, or it lists
those that are still pending.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import Any, Literal, NamedTuple, NoReturn

import jax
import numpy as np

from jaxnets.core.errors import PreemptedError, UsageError
from jaxnets.data.feed import prefetch
from jaxnets.parallel.hosts import any_process
from jaxnets.steps.health import HEALTH
from jaxnets.training.guards import SpikeWatch, describe, fault, first_bad
from jaxnets.training.plan import Call, Hook, Moment, Saver, plan
from jaxnets.training.program import Program, looks_for_nans
from jaxnets.training.stages import StagedProgram
from jaxnets.training.stopping import Stopping, StopRequestedError


@dataclasses.dataclass
class Timing:
    """Seconds that a run spent on other work than steps."""

    compiling: float = 0.0
    """Until the first call was dispatched."""
    waiting_for_data: float = 0.0
    """Until a batch was available."""
    in_hooks: float = 0.0
    """Logging and evaluating."""
    saving: float = 0.0
    """Until a state was copied off the device."""

    @property
    def beside_steps(self) -> float:
        """The time that a training speed excludes: compiling, logging, evaluating and saving, but not waiting for data."""
        return self.compiling + self.in_hooks + self.saving


@dataclasses.dataclass
class Watch:
    """Policies, signals and callbacks that the loop checks between steps."""

    on_nonfinite: Literal["halt", "skip", "rollback"] = "halt"
    """The reaction to a NaN or infinite loss or gradient. Its update is never applied; `halt` raises
    `NonFiniteError`, `rollback` raises `RollBackError`, `skip` continues."""
    spikes: SpikeWatch | None = None
    """Looks for spikes of the loss; raises `RollBackError`."""
    stopping: Stopping = dataclasses.field(default_factory=Stopping)
    """Whether a signal or the clock requests the run to stop."""
    timing: Timing = dataclasses.field(default_factory=Timing)
    """Where the time went, filled in by the loop."""
    ended: Callable[[int], bool] = lambda step: False
    """Whether the run is to end early, after the evaluation at a step; the same on every process."""
    health: Callable[[int, dict[str, float]], None] = lambda step, values: None
    """Takes the measurements of the network at a step (`steps.health`)."""
    adjusted: Callable[[Any], Any] = lambda state: state
    """The state to continue with, by the evaluations so far: `optim.Plateau` sets its scale. The same on every process."""


def fit(
    program: Program | StagedProgram,
    state: Any,
    *,
    start: int,
    stop: int,
    hooks: Sequence[Hook] = (),
    saver: Saver | None = None,
    pending: Collection[str] = (),
    left_out: Collection[int] = (),
    watch: Watch | None = None,
    prefetch_depth: int = 0,
) -> Any:
    """Train from step `start` to step `stop` and return the state there, or at the step at which `Watch.ended` is true.

    Args:
        program: the compiled steps and the feed that brings their batches.
        state: the state after `start` updates; it is copied first, so the caller's arrays are not donated.
        start: updates done already.
        stop: updates done when it returns.
        hooks: run in this order at the steps that they define.
        saver: runs after them.
        pending: names of hooks that still have to run at `start`.
        left_out: numbers of batches that change nothing.
        watch: policies and signals; without it, a step that is not finite stops the run.
        prefetch_depth: payloads loaded ahead by a thread; 0 loads them in between (right for resident data).

    Raises:
        UsageError: nothing to do.
        NonFiniteError: see `Watch.on_nonfinite`.
        RollBackError: a guard requests a roll-back.
        PreemptedError: a signal came; the state is saved.
    """
    if stop < start or (stop == start and not pending):
        raise UsageError(f"there are no steps to train: the run is at step {start} and is to stop at {stop}")
    work = _Work(program, hooks, saver, watch or Watch())
    work.run_pending(pending, Moment(start, state))
    state = work.watch.adjusted(state)
    stop = start if pending and work.watch.ended(start) else stop
    calls = plan(start, stop, program.capacity, hooks, saver)
    payloads = work.payloads(calls, frozenset(left_out), prefetch_depth)
    # Every transfer is explicit; an implicit one would stall each step. Operations that JAX runs one by one have some.
    with jax.transfer_guard("allow" if looks_for_nans() else "disallow"), contextlib.closing(payloads):
        return _loop(work, program.adopt(state), payloads, start, stop)


def _loop(work: "_Work", state: Any, payloads: Iterator[Any], start: int, stop: int) -> Any:
    saver, watch = work.saver, work.watch
    unread: Unread | None = None
    step = saved = start
    while step < stop:
        try:
            call, payload = next(payloads)
        except StopRequestedError:
            work.deliver(unread)
            if saver is not None and step != saved:
                work.timed("saving", saver.run, Moment(step, state))
            if work.gently:
                return state
            work.leave(step)
        state, metrics = work.call(state, payload, call.count)
        # Read the metrics of the previous call only now, when the next call is dispatched.
        work.deliver(unread)
        unread, step = Unread(call, metrics), call.last
        stopped = any_process(watch.stopping.requested)
        save = saver is not None and (call.save or stopped or any_process(saver.wants_now()))
        if call.due or save or stopped:
            work.deliver(unread)
            unread = None
            pending = work.run(call.due, Moment(step, state))
            state = state if pending else watch.adjusted(state)
            better = saver is not None and saver.improved(step)
            ended = bool(call.due) and not pending and watch.ended(step)
            if saver is not None and (save or pending or better or ended):
                work.timed("saving", saver.run, Moment(step, state, pending))
                saved = step
            if (stopped or pending) and not work.gently:
                work.leave(step)
            if ended or stopped or pending:
                break
    work.deliver(unread)
    return state


class Unread(NamedTuple):
    """The metrics of a call's steps, still on the device."""

    call: Call
    metrics: Any


@dataclasses.dataclass(frozen=True)
class _Work:
    """The parts of the loop, and its work between two calls."""

    program: Program | StagedProgram
    hooks: Sequence[Hook]
    saver: Saver | None
    watch: Watch

    def payloads(self, calls: Iterator[Call], left_out: frozenset[int], depth: int) -> Generator[Any]:
        """The payloads of a plan; the waiting time for each is counted."""
        poll, timing = self.watch.stopping.leave_if_requested, self.watch.timing
        capacity = self.program.capacity
        loaded = prefetch(self.program.feed, calls, capacity=capacity, depth=depth, left_out=left_out, poll=poll)
        with contextlib.closing(loaded):
            while True:
                began = time.perf_counter()
                item = next(loaded, None)
                timing.waiting_for_data += time.perf_counter() - began
                if item is None:
                    return
                yield item

    def call(self, state: Any, payload: Any, count: int) -> tuple[Any, Any]:
        """Dispatch the next steps; the time for compiling them is counted."""
        began, traces = time.perf_counter(), self.program.traces
        done = self.program(state, payload, count)
        if self.program.traces > traces:
            self.watch.timing.compiling += time.perf_counter() - began
        return done

    def deliver(self, unread: Unread | None) -> None:
        """Read the metrics of a call, check them by the guards, then pass them to the hooks."""
        if unread is None:
            return
        first, count = unread.call.first, unread.call.count
        metrics = jax.device_get(unread.metrics)
        readings = metrics.pop(HEALTH, None)
        read = {name: (np.asarray(mean.sum)[:count], np.asarray(mean.weight)[:count]) for name, mean in metrics.items()}
        policy, spikes = self.watch.on_nonfinite, self.watch.spikes
        # Step by step, so that the reported fault does not depend on the number of steps in a call.
        bad = first_bad(read) if policy != "skip" else None
        if spikes is not None:
            spikes.observe(first, {name: (sums[:bad], weights[:bad]) for name, (sums, weights) in read.items()})
        if bad is not None:
            raise fault(first + bad + 1, describe(bad, read, self.program.leaves), policy=policy)
        for hook in self.hooks:
            hook.observe(first, read)
        if readings is not None:
            for offset in np.flatnonzero(readings.weight[:count]).tolist():
                values = readings.sum[offset] / readings.weight[offset]
                self.watch.health(first + offset + 1, dict(zip(readings.names, values.tolist(), strict=True)))

    def run(self, due: Sequence[Hook], moment: Moment) -> tuple[str, ...]:
        """Run the hooks that are due; returns the names of those that were postponed."""
        pending = []
        for hook in due:
            try:
                self.timed("in_hooks", hook.run, moment)
            except StopRequestedError:
                pending.append(hook.name)
        return tuple(pending)

    def run_pending(self, pending: Collection[str], moment: Moment) -> None:
        """Run the hooks that were due at this step when the last run was stopped."""
        left = self.run([hook for hook in self.hooks if hook.name in pending], moment)
        if pending and not left and self.saver is not None:
            self.saver.clear_pending(moment)
        if any_process(bool(left) or self.watch.stopping.requested) and not self.gently:
            raise PreemptedError(f"{self.reason}: stopped at step {moment.step} before any new work was done")

    def leave(self, step: int) -> NoReturn:
        """End a run that received a signal, once its save is on the disk."""
        saved = "not saved (there is no run directory)"
        if self.saver is not None:
            self.saver.finish()
            saved = "saved"
        raise PreemptedError(f"{self.reason}: stopped at step {step}, {saved}; the same command continues from there")

    @property
    def gently(self) -> bool:
        """Whether a callback requested a stop, on any process: then the state is returned, without an error."""
        return any_process(self.watch.stopping.requested and self.watch.stopping.gently)

    @property
    def reason(self) -> str:
        """Why the run is to stop."""
        return self.watch.stopping.reason or "another process received a signal to stop"

    def timed(self, name: str, act: Callable[[Moment], None], moment: Moment) -> None:
        """Call a function, and add its time to `Timing`."""
        began, timing = time.perf_counter(), self.watch.timing
        try:
            act(moment)
        finally:
            setattr(timing, name, getattr(timing, name) + time.perf_counter() - began)
