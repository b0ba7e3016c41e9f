"""Curriculum learning: easy examples first (Bengio et al. 2009), by a share that grows with the step."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Batch
from jaxnets.steps.recipe import Metrics, Recipe, Step
from jaxnets.steps.state import TrainState
from jaxnets.tasks.own import Own

# The array of a batch with the rank of each example among all training examples, in (0, 1].
DIFFICULTY = "difficulty"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curriculum(Own):
    """Wraps another task, which is trained at first on the easiest examples only: `Curriculum(model=task.model, inner=task)`.

    The data have an array `difficulty` (`data.with_difficulty`, `data.Ranked`). In every batch the examples harder than the
    share of the step have no weight; batches keep their order and size, so part of the work of the early ones is wasted.
    A batch without an example that is easy enough changes nothing.
    """

    begin: float = 0.2
    """Share of the examples at step 0, in (0, 1]."""
    until: int = 1000
    """Step from which all examples count."""
    growth: Literal["linear", "root"] = "root"
    """linear: in proportion to the step. root: `sqrt(begin^2 + (1 - begin^2) step / until)`, so that each new example has as
    much time (Platanios et al. 2019, equation 8)."""

    def __post_init__(self) -> None:
        if not 0 < self.begin <= 1 or self.until < 1:
            raise ValueError(f"begin is a share in (0, 1] and until at least 1, got {self.begin} and {self.until}")

    @property
    def reads(self) -> tuple[str, ...]:
        """See `Task`."""
        return (*super().reads, DIFFICULTY)

    def share(self, step: Array | int) -> Array:
        """The share of the training examples, from the easiest on, that count at a step."""
        done = jnp.minimum(jnp.asarray(step, jnp.float32) / self.until, 1.0)
        if self.growth == "linear":
            return self.begin + (1 - self.begin) * done
        return jnp.sqrt(self.begin**2 + (1 - self.begin**2) * done)

    def make_step(self, recipe: Recipe) -> Step:
        """The inner task's step, with a mask."""
        inner = super().make_step(recipe)

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            # The last example has rank 1, which a rounded share of 1 must not leave out.
            easy = batch[DIFFICULTY] <= self.share(state.step) + 1e-6
            return inner(state, {**batch, "mask": batch["mask"] * easy})

        return step
