"""Callbacks as hooks of the loop."""

import json
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnets.callbacks.callback import Callback, CallbackError, Progress
from jaxnets.core.errors import UsageError
from jaxnets.training.guards import StepMetrics
from jaxnets.training.plan import Moment
from jaxnets.training.stopping import Stopping


class Observers:
    """Shows each step to all callbacks of a run. What a step measured is worked out once, when the first hook asks."""

    def __init__(self) -> None:
        self.hooks: list[CallbackHook] = []
        """Those whose callback overrides `stepped`."""
        self._shown: StepMetrics | None = None

    def observe(self, first_step: int, metrics: StepMetrics) -> None:
        """Call `stepped` of each callback for each step, once for the same metrics."""
        if metrics is self._shown or not self.hooks:
            return
        self._shown = metrics
        with np.errstate(divide="ignore", invalid="ignore"):
            values = [(sums / weights).tolist() for sums, weights in metrics.values()]
        rows = [dict(zip(metrics, row, strict=True)) for row in zip(*values, strict=True)]
        with jax.transfer_guard("allow"):  # the loop refuses implicit transfers in its own code, not in a user's
            for hook in self.hooks:
                hook.see(first_step, rows)


class CallbackHook:
    """One callback as a hook of the loop. What it raises stops the run in good order: the state is saved first."""

    def __init__(self, callback: Callback, name: str, run: Progress, stopping: Stopping, observers: Observers) -> None:
        self.name, self.callback = name, callback
        self._run, self._stopping, self._observers = run, stopping, observers
        self.error: Exception | None = None
        if type(callback).stepped is not Callback.stepped:
            observers.hooks.append(self)

    def next_after(self, step: int) -> int | None:
        """See `Hook`."""
        return self.callback.next_after(step)

    def observe(self, first_step: int, metrics: StepMetrics) -> None:
        """See `Hook`."""
        self._observers.observe(first_step, metrics)

    def see(self, first_step: int, rows: list[dict[str, float]]) -> None:
        """Call `stepped` for each step. It is kept short, since a step may take a tenth of a millisecond."""
        if self.error is not None:
            return
        run, stepped = self._run, self.callback.stepped
        try:
            for step, row in enumerate(rows, first_step + 1):
                run.step = step
                stepped(run, step, row.copy())  # what a callback does to its own copy, the others do not see
        except Exception as error:
            self._raised(error)

    def run(self, moment: Moment) -> None:
        """See `Hook`."""
        with_state(self._run, moment.step, moment.state, lambda: self.tell("at"))

    def tell(self, event: str, *arguments: Any) -> None:
        """Call a method of the callback, unless it has raised before."""
        if self.error is None:
            try:
                with jax.transfer_guard("allow"):
                    getattr(self.callback, event)(self._run, *arguments)
            except Exception as error:
                self._raised(error)

    def _raised(self, error: Exception) -> None:
        self.error = error
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.filename}, line {where.lineno}"
        self._stopping.request(f"{self.name} raised {type(error).__name__}: {error} ({place})", gently=True)


def with_state(run: Progress, step: int, state: Any, act: Any) -> None:
    """Act while the callbacks may read a state."""
    run.step, run._state = step, state
    try:
        act()
    finally:
        run._state = None


class Callbacks:
    """All callbacks of a run."""

    def __init__(self, given: Sequence[Callback], run: Progress, stopping: Stopping) -> None:
        for callback in given:
            if not isinstance(callback, Callback):
                hint = "; add parentheses to make one" if isinstance(callback, type) else ""
                raise UsageError(
                    f"hooks are objects of classes made from jaxnets.Callback, got {callback!r}{hint}. For a function: "
                    f"jaxnets.callbacks.Call(function, every=100)"
                )
        names = [f"{type(callback).__name__}#{number}" for number, callback in enumerate(given)]
        self.run = run
        observers = Observers()
        self.hooks = [CallbackHook(c, name, run, stopping, observers) for c, name in zip(given, names, strict=True)]

    def tell(self, event: str, *arguments: Any, step: int | None = None) -> None:
        """Call a method of each callback, in order."""
        if step is not None:
            self.run.step = step
        for hook in self.hooks:
            hook.tell(event, *arguments)

    def tell_with(self, event: str, state: Any, *arguments: Any) -> None:
        """Call a method of each callback, which may read the state."""
        if self.hooks:
            with_state(self.run, int(state.step), state, lambda: self.tell(event, *arguments))

    def state(self) -> dict[str, Any]:
        """What each remembers, by its name: a copy, since a checkpoint is written while the callbacks go on."""
        found = {hook.name: kept for hook in self.hooks if (kept := hook.callback.state()) is not None}
        try:
            return dict(json.loads(json.dumps(found)))
        except (TypeError, ValueError) as error:
            raise UsageError(f"state() of a callback is JSON data (numbers, text, lists, dicts): {error}") from error

    def restore(self, remembered: Mapping[str, Any]) -> None:
        """The inverse of `state`; a callback that was not there then keeps what it has."""
        for hook in self.hooks:
            if hook.name in remembered:
                hook.callback.restore(remembered[hook.name])

    def raise_first(self) -> None:
        """Raise `CallbackError` for the first callback that raised."""
        for hook in self.hooks:
            if hook.error is not None:
                at = f"at step {self.run.step}"
                raise CallbackError(
                    f"the hook {hook.name} raised {type(hook.error).__name__} {at}: {hook.error}. The run was saved first, "
                    f"where it has a directory; mend the hook and run the same command to go on"
                ) from hook.error
