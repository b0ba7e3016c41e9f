"""A task chosen by the kind of the targets, for configurations written before the data are known."""

import dataclasses
from typing import Any

from jaxnets.core.types import Card
from jaxnets.tasks.base import Task
from jaxnets.tasks.classification import Classification
from jaxnets.tasks.forecasting import Forecasting
from jaxnets.tasks.given import Given
from jaxnets.tasks.multilabel import MultiLabel
from jaxnets.tasks.regression import Regression


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised(Task):
    """`bind` replaces it with `Classification` for classes and distributions over them, `MultiLabel` for several labels,
    `Forecasting` for a series, `Given` for targets of any form and `Regression` for real numbers."""

    def bind(self, card: Card) -> Any:
        """The task for the targets of the data."""
        tasks: dict[str, type[Task]] = {
            "class": Classification,
            "distribution": Classification,
            "labels": MultiLabel,
            "series": Forecasting,
            "any": Given,
        }
        return tasks.get(card.target_kind, Regression)(model=self.model).bind(card)
