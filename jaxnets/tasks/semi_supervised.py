"""Few labels and many unlabelled examples: FixMatch (Sohn et al. 2020). Shapes: `B` batch, `C` classes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Aux, Batch, Mean, Variables
from jaxnets.ops.random import batch_keys
from jaxnets.tasks.classification import Classification, accuracy
from jaxnets.tasks.losses import cross_entropy
from jaxnets.tasks.views import Views

# The array of a batch that marks the known labels.
LABELLED = "labelled"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixMatch(Classification):
    """Minimise the cross entropy of the known labels, and of confident predictions for the other examples.

    The data have an array `labelled` `[N]`, 1 where the label is known and 0 where it is not (`data.few_labels` and
    `data.with_unlabelled` make it). Each example has a weak and a strong view. If the probability of the most probable class
    of the weak view reaches `threshold`, it becomes the label of the strong view (equations 3 and 4); with equal `weak` and
    `strong` these are plain pseudo labels (Lee 2013). Labelled examples take part in both terms.
    """

    weak: Views = Views(noise=0.0)
    """The view whose prediction becomes the label."""
    strong: Views = Views(noise=0.3, dropped=0.2)
    """The view that learns from it."""
    threshold: float = 0.95
    """Smallest probability of a prediction that becomes a label, in [0, 1]."""
    weight: float = 1.0
    """Weight of the second term."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is a probability in [0, 1], got {self.threshold}")
        if self.weight < 0:
            raise ValueError(f"weight is at least 0, got {self.weight}")

    @property
    def reads(self) -> tuple[str, ...]:
        """See `Task`."""
        return (*super().reads, LABELLED)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The mean over the labelled examples plus `weight` times the mean of the second term over all.

        The metrics hold both terms, `confident`, the share of examples that got a label by prediction, and the accuracy on
        the labelled ones. A batch without a labelled example has the second term alone.
        """
        for_views, for_model = jax.random.split(key)
        weak, strong = (
            jax.vmap(views)(batch_keys(for_views, batch, name), batch["inputs"])
            for name, views in (("weak", self.weak), ("strong", self.strong))
        )
        both = jnp.stack([weak, strong], axis=1)
        seen: Any = both.reshape(-1, *both.shape[2:])  # the views of an example lie on one device
        logits, state = self.apply(variables, {**batch, "inputs": seen}, for_model if train else None)
        weak_logits, strong_logits = logits[::2], logits[1::2]
        mask = batch["mask"].astype(jnp.float32)
        known = {**batch, "mask": mask * batch[LABELLED]}
        labelled = cross_entropy(weak_logits, batch["targets"], label_smoothing=self.label_smoothing if train else 0.0)
        supervised = Mean.of(labelled, known["mask"])
        guess = jax.lax.stop_gradient(jax.nn.softmax(weak_logits))
        confident = (guess.max(axis=-1) >= self.threshold).astype(jnp.float32)
        consistency = Mean.of(confident * cross_entropy(strong_logits, guess.argmax(axis=-1)), mask)
        # Each term has its own weight; their sum is scaled as a mean over the examples.
        total = supervised.sum / jnp.maximum(supervised.weight, 1e-30) * mask.sum() + self.weight * consistency.sum
        metrics = {
            "loss": Mean(total, mask.sum()),
            "label_loss": supervised,
            "consistency": consistency,
            "confident": Mean.of(confident, mask),
            "accuracy": accuracy(weak_logits, known),
        }
        return metrics["loss"], Aux(metrics, state)
