"""The task that the targets ask for: for data whose kind is not known when the configuration is written."""

import dataclasses
from typing import Any

from jaxnets.core.types import Card
from jaxnets.tasks.base import Task
from jaxnets.tasks.classification import Classification
from jaxnets.tasks.forecasting import Forecasting
from jaxnets.tasks.multilabel import MultiLabel
from jaxnets.tasks.regression import Regression


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised(Task):
    """Becomes `Classification` for labels, `MultiLabel` for several at once, `Forecasting` for what follows in a series and
    `Regression` for real numbers when it meets the data."""

    def bind(self, card: Card) -> Any:
        """The task the data ask for."""
        tasks: dict[str, type[Task]] = {"class": Classification, "labels": MultiLabel, "series": Forecasting}
        return tasks.get(card.target_kind, Regression)(model=self.model).bind(card)
