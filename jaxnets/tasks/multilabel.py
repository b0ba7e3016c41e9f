"""Multi-label classification: any number of labels per example, from none to all.

Shapes: `B` batch, `C` labels.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Gallery, Mean, Table, Variables
from jaxnets.core.wide import wide
from jaxnets.tasks.base import Task, check_kind, with_outputs
from jaxnets.tasks.classification import share
from jaxnets.tasks.losses import binary_cross_entropy

# Counts of each label: predicted and true, predicted and false, not predicted and true.
COUNTS = ("hits", "false_alarms", "misses")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiLabel(Task):
    """Minimise the binary cross entropy of every label; measure example accuracy, label accuracy and F1.

    A batch holds `inputs` `[B, ...]`, `targets` `[B, C]` of 0, 1 and -1 (unknown: not counted) and `mask` `[B]`; the model
    returns logits `[B, C]`. Losses and label accuracies are means over the known labels.

    F1 is the harmonic mean of precision and recall, `2 hits / (2 hits + false alarms + misses)`: from the summed counts of
    all labels (micro), or averaged over labels (macro; a label that is never true and never predicted has F1 0). An
    evaluation sums the counts over all batches first, so F1 does not depend on the batch size.
    """

    positive_weight: float = 1.0
    """Weight of a label that is 1 in the training loss; set it above 1 for rare labels."""
    threshold: float = 0.5
    """A label is predicted if its probability is at least this, in (0, 1)."""

    headline = "micro_f1"
    higher_is_better = True
    given_targets = "labels"

    def __post_init__(self) -> None:
        if not 0 < self.positive_weight < math.inf:
            raise ValueError(f"MultiLabel.positive_weight is above 0, got {self.positive_weight}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"MultiLabel.threshold is a probability in (0, 1), got {self.threshold}")

    def bind(self, card: Card) -> Self:
        """Set the model's outputs to the number of labels."""
        check_kind(card, "labels", "MultiLabel needs targets [examples, labels] of 0 and 1")
        count = len(card.class_names)
        reason = f"{card.name!r} has {count} labels"
        return dataclasses.replace(self, model=with_outputs(self.model, count, exact=True, reason=reason))

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean cross entropy in nats per label, over the unmasked examples."""
        logits, model_state = self.apply(variables, batch, key if train else None)
        weight = self.positive_weight if train else 1.0
        loss = _over_known(binary_cross_entropy(logits, _yes(batch), positive_weight=weight), batch)
        return loss, Aux({"loss": loss, **self._shares(logits, batch)}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Cross entropy (never weighted), both accuracies, and the counts of each label, for F1 in `derive`."""
        logits = self.outputs(variables, batch)
        loss = _over_known(binary_cross_entropy(logits, _yes(batch)), batch)
        predicted, true, known = self._predicted(logits), _true(batch["targets"]), batch["targets"] >= 0
        counts = {}
        for name, seen in zip(COUNTS, (predicted & true, predicted & ~true & known, ~predicted & true), strict=True):
            for label in range(seen.shape[1]):
                counts[f"{name}_{label}"] = Mean.of(seen[:, label].astype(jnp.float32), batch["mask"])
        return {"loss": loss, **self._shares(logits, batch), **counts}

    def about_split(self, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
        """For each label whether it is known for any example: `known_0`, ..."""
        known = np.atleast_1d((np.asarray(arrays["targets"]) >= 0).any(axis=0))
        return {f"known_{label}": float(flag) for label, flag in enumerate(known)}

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """The measured means, with the counts turned into `micro_f1` and `macro_f1`."""
        labels = sum(name.startswith("hits_") for name in values)
        if not labels:
            return dict(values)
        # These are counts divided by the number of examples; F1 is the same for both.
        counts = np.array([[values[f"{name}_{label}"] for label in range(labels)] for name in COUNTS])
        kept = {name: value for name, value in values.items() if name.rsplit("_", 1)[0] not in (*COUNTS, "known")}
        known = [label for label in range(labels) if values.get(f"known_{label}", 1.0)]
        return {**kept, "micro_f1": float(f1(*counts.sum(axis=1))), "macro_f1": float(f1(*counts)[known].mean())}

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check for one target and one logit per example and label."""
        wanted = (batch["mask"].shape[0], len(card.class_names))
        if batch["targets"].shape != wanted:
            raise DataError(
                f"the targets of {card.name!r} have shape {batch['targets'].shape}, MultiLabel needs [batch, {wanted[1]}]: "
                f"a 0 or 1 for each label; make them with from_arrays, or use Classification for one label per example"
            )
        shape = jax.eval_shape(self.outputs, variables, batch).shape
        if shape != wanted:
            raise DataError(
                f"{type(self.model).__name__} gives outputs of shape {shape}, but {card.name!r} has {wanted[1]} labels: "
                f"MultiLabel needs [batch, {wanted[1]}]; change the model's last layer"
            )

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """The labels whose probability reaches the threshold, `[B, C]` uint8."""
        return np.asarray(self._predicted(outputs), np.uint8)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray | None:
        """The sigmoid of the logits, `[B, C]` float32."""
        return np.exp(-np.logaddexp(0.0, -np.asarray(outputs, np.float32)))

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """A table of the labels, and the worst mislabelled images."""
        known = np.asarray(arrays["targets"]) >= 0
        true, predicted = np.asarray(arrays["targets"]) > 0, (self.decide(outputs) > 0) & known
        hits, alarms, misses = (
            (a & b).sum(axis=0) for a, b in ((predicted, true), (predicted, ~true), (~predicted, true))
        )
        rows = tuple(
            (name, f"{h + m}", share(h, h + a), share(h, h + m), share(2 * h, 2 * h + a + m))
            for name, h, a, m in zip(card.class_names, hits, alarms, misses, strict=True)
        )
        shown: list[Exhibit] = [Table("Label by label (test)", ("label", "true", "precision", "recall", "F1"), rows)]
        if len(card.input_shape) == 3 and card.input_shape[-1] in (1, 3):
            shown.append(_most_wrong(outputs, true, predicted, arrays["inputs"], card.class_names))
        return shown

    def _predicted(self, logits: Array | np.ndarray) -> Array:
        return logits >= math.log(self.threshold / (1 - self.threshold))  # type: ignore[return-value]

    def _shares(self, logits: Array, batch: Batch) -> dict[str, Mean]:
        known = batch["targets"] >= 0
        right = (self._predicted(logits) == _true(batch["targets"])) | ~known
        # An example without any known label does not count.
        return {
            "accuracy": Mean.of(right.all(axis=-1).astype(jnp.float32), batch["mask"] * known.any(axis=-1)),
            "label_accuracy": _over_known(right.astype(jnp.float32), batch),
        }


def _yes(batch: Batch) -> Array:
    """1 if a label is known to be true, else 0; `[B, C]` float32. Labels of mixed examples are shares, and stay so."""
    targets = batch["targets"]
    if jnp.issubdtype(targets.dtype, jnp.floating):
        return jnp.maximum(targets, 0.0)
    return _true(targets).astype(jnp.float32)


def _true(targets: Array) -> Array:
    """Whether a label is true, `[B, C]` bool; of mixed examples, whether more than half of it is."""
    return targets > (0.5 if jnp.issubdtype(targets.dtype, jnp.floating) else 0)


def _over_known(values: Array, batch: Batch) -> Mean:
    """The mean of `[B, C]` over the known labels of the unmasked examples.

    Each known label weighs 1 / C, so an example whose labels are all known has weight 1.
    """
    known = (batch["targets"] >= 0).astype(jnp.float32)
    weight = batch["mask"][:, None] * known / known.shape[1]
    return Mean(jnp.where(weight > 0, wide(values) * weight, 0.0).sum(), weight.sum())


def f1(hits: np.ndarray, false_alarms: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """`2 hits / (2 hits + false alarms + misses)`, 0 if all counts are 0; any shape."""
    return 2 * hits / np.maximum(2 * hits + false_alarms + misses, 1e-12)


def _most_wrong(
    outputs: np.ndarray, true: np.ndarray, predicted: np.ndarray, images: np.ndarray, names: Sequence[str]
) -> Gallery:
    """The examples with a wrong label, by decreasing cross entropy, at most 24."""
    losses = np.logaddexp(0, np.where(true, -outputs, outputs)).sum(axis=1)
    wrong = np.flatnonzero((true != predicted).any(axis=1))
    worst = wrong[np.argsort(-losses[wrong], kind="stable")][:24]

    def words(labels: np.ndarray) -> str:
        return " ".join(name for name, there in zip(names, labels, strict=True) if there) or "nothing"

    captions = tuple(f"{words(predicted[i])}\nis {words(true[i])}" for i in worst)
    title = f"Most wrong: {len(worst)} of {len(wrong)} examples with a wrong label, of {len(true)} in the test"
    return Gallery(title, np.asarray(images[worst]), captions)
