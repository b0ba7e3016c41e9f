"""The adaptive linear neuron (Widrow and Hoff, 1960): the error is measured before the threshold."""

import dataclasses
from typing import Self

import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Mean, Variables
from jaxnets.tasks.base import with_outputs
from jaxnets.tasks.classification import Classification, accuracy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaline(Classification):
    """Two classes, one linear unit; minimise `(y - potential)^2` with `y` in {-1, +1}. The potential's sign is the prediction.

    The gradient step `w <- w + 2 rate (y - potential) x` is the rule of Widrow and Hoff (LMS, delta rule). Unlike the
    perceptron rule it approaches the least-squares solution, also on data that are not linearly separable.
    """

    has_probabilities = False

    @property
    def takes_distributions(self) -> bool:
        """No: a unit has one sign to reach."""
        return False

    def bind(self, card: Card) -> Self:
        """Set the model's single output; raise `DataError` unless the data have two classes."""
        if len(card.class_names) != 2:
            raise DataError(
                f"ADALINE separates two classes, but {card.name!r} has {len(card.class_names)}; "
                f"use Classification, or data with two classes"
            )
        if self.label_smoothing:
            raise DataError(f"ADALINE has no label_smoothing, got {self.label_smoothing}; set it to 0")
        return dataclasses.replace(self, model=with_outputs(self.model, 1, exact=True, reason="ADALINE is one unit"))

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """Logits of two classes `[B, 2]`: minus and plus the potential, so that its sign is the prediction."""
        potential = self.apply(variables, batch, None)[0][:, 0]
        return jnp.stack([-potential, potential], axis=-1)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean squared error of the potential over the unmasked examples."""
        potential, model_state = self.apply(variables, batch, key if train else None)
        scores = potential[:, 0]
        sign = jnp.where(batch["targets"] == 1, 1.0, -1.0)
        loss = Mean.of(jnp.square(scores - sign), batch["mask"])
        right = accuracy(jnp.stack([-scores, scores], axis=-1), batch)
        return loss, Aux({"loss": loss, "accuracy": right}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Squared error and accuracy."""
        return self.loss(variables, batch, batch["mask"], False)[1].metrics
