"""Classification or regression, as the targets ask: for data whose kind is not known when the configuration is written."""

import dataclasses
from typing import Any

from jaxnets.contracts import Card
from jaxnets.tasks.base import Task
from jaxnets.tasks.classification import Classification
from jaxnets.tasks.regression import Regression


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised(Task):
    """Becomes `Classification` for labels and `Regression` for real numbers when it meets the data."""

    def bind(self, card: Card) -> Any:
        """The task the data ask for."""
        chosen = Classification if card.target_kind == "class" else Regression
        return chosen(model=self.model).bind(card)
