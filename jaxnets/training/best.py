"""Keeping the best weights of a run that has no directory."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.checkpoints.retention import better
from jaxnets.training.hooks import EvaluateHook
from jaxnets.training.plan import Moment


class BestInMemory:
    """A `Saver` that keeps a copy of the weights of the best evaluation, on the device."""

    def __init__(self, metric: str, mode: str, evaluate: EvaluateHook) -> None:
        self._metric, self._mode, self._evaluate = metric, mode, evaluate
        self.best: tuple[int, float, Any] | None = None
        """Step, value and variables."""

    def next_after(self, step: int) -> int | None:
        """See `Saver`: no step is due by its number."""

    def wants_now(self) -> bool:
        """See `Saver`."""
        return False

    def improved(self, step: int) -> bool:
        """See `Saver`."""
        at, values = self._evaluate.newest
        return at == step and better(values.get(self._metric, math.nan), self.best and self.best[1], self._mode)

    def run(self, moment: Moment) -> None:
        """Copy the weights, if they are the best so far."""
        if self.improved(moment.step):
            value = self._evaluate.newest[1][self._metric]
            self.best = moment.step, value, jax.tree.map(jnp.copy, moment.state.best_variables)

    def finish(self) -> None:
        """See `Saver`."""

    def clear_pending(self, moment: Moment) -> None:
        """See `Saver`: nothing is pending, because such a run is never resumed."""
