"""Classification by capsule lengths: one independent score in [0, 1) per class."""

import dataclasses

import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Aux, Batch, Mean, Variables
from jaxnets.core.wide import wide
from jaxnets.tasks.classification import Classification, accuracy


@dataclasses.dataclass(frozen=True, kw_only=True)
class MarginClassification(Classification):
    """Minimise the margin loss of Sabour et al. 2017 (equation 4); measure it and accuracy.

    Like `Classification`, but the model returns lengths `[B, C]` in [0, 1) instead of logits.
    """

    has_probabilities = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_smoothing:
            raise ValueError(
                f"the margin loss has no label_smoothing, got {self.label_smoothing}; leave it out, or use Classification"
            )

    @property
    def takes_distributions(self) -> bool:
        """No: the margin loss is defined for one true class."""
        return False

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean margin loss over the unmasked examples."""
        lengths, model_state = self.apply(variables, batch, key if train else None)
        loss = Mean.of(margin(lengths, batch["targets"]), batch["mask"])
        return loss, Aux({"loss": loss, "accuracy": accuracy(lengths, batch)}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """The margin loss and accuracy."""
        lengths = self.outputs(variables, batch)
        return {
            "loss": Mean.of(margin(lengths, batch["targets"]), batch["mask"]),
            "accuracy": accuracy(lengths, batch),
        }


def margin(lengths: Array, labels: Array) -> Array:
    """The margin loss `[B]`: `max(0, .9 - length)^2` for the true class plus `0.5 max(0, length - .1)^2` for the others.

    Args:
        lengths: `[B, C]`, computed in float32.
        labels: `[B]` integers in `[0, C)`.
    """
    lengths = wide(lengths)
    there = labels[:, None] == jnp.arange(lengths.shape[-1])[None, :]
    lacking, excess = jnp.maximum(0.0, 0.9 - lengths), jnp.maximum(0.0, lengths - 0.1)
    return jnp.where(there, jnp.square(lacking), 0.5 * jnp.square(excess)).sum(axis=-1)
