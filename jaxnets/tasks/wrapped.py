"""A task around another one, which answers whatever is not changed."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from jax import Array

from jaxnets.core.types import Batch, Card, Exhibit, Variables
from jaxnets.steps.step import Recipe, Step
from jaxnets.tasks.base import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrapped(Task):
    """Base of tasks that hold another task."""

    inner: Task
    """The task that fits the data; `Supervised` chooses it by the kind of the targets."""

    @property
    def plain(self) -> Task:
        """See `Task`."""
        return self.inner.plain

    @property
    def headline(self) -> str:  # type: ignore[override]
        """See `Task`."""
        return self.inner.headline

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """See `Task`."""
        return self.directions.get(self.headline, "min") == "max"

    @property
    def directions(self) -> dict[str, Literal["max", "min"]]:
        """See `Task`."""
        return self.inner.directions

    @property
    def reads(self) -> tuple[str, ...]:
        """See `Task`."""
        return self.inner.reads

    def bind(self, card: Card) -> Self:
        """Bind the inner task."""
        inner = self.inner.bind(card)
        return dataclasses.replace(self, model=inner.model, inner=inner)

    def encode_targets(self, targets: np.ndarray) -> np.ndarray:
        """See `Task`."""
        return self.inner.encode_targets(targets)

    def about_split(self, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
        """See `Task`."""
        return self.inner.about_split(arrays)

    def init(self, key: Array, batch: Batch) -> Variables:
        """See `Task`."""
        return self.inner.init(key, batch)

    def inputs_of(self, batch: Batch) -> Any:
        """See `Task`."""
        return self.inner.inputs_of(batch)

    def init_optimizer(self, optimizer: Any, params: Any) -> Any:
        """See `Task`."""
        return self.inner.init_optimizer(optimizer, params)

    def make_step(self, recipe: Recipe) -> Step:
        """See `Task`."""
        return self.inner.make_step(recipe)

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """See `Task`."""
        return self.inner.decide(outputs)

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """See `Task`."""
        return self.inner.exhibit_rows(examples)

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """See `Task`."""
        return self.inner.exhibits(outputs, arrays, card)

    def drawn(self, variables: Variables) -> Sequence[Exhibit]:
        """See `Task`."""
        return self.inner.drawn(variables)
