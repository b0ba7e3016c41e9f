"""Targets of any form, for a loss of the user's."""

import dataclasses
from typing import Any, Self

from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.core.types import Aux, Batch, Card, Mean, Variables
from jaxnets.tasks.base import Task, check_kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(Task):
    """Targets `[N, ...]` of any shape, as they were given: `fit(model, data, loss=...)` and `from_arrays(kind="any")`.

    It has no loss and no metric of its own; `tasks.Own` puts those of the user on top.
    """

    given_targets = "any"

    def bind(self, card: Card) -> Self:
        """See `Task`."""
        check_kind(card, "any", "Given needs targets of kind='any'")
        return self

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Always raises `UsageError`."""
        raise UsageError(
            "the targets are of kind 'any', for which only you know a loss; give one, fit(..., loss=function)"
        )

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Any]:
        """None."""
        return {}
