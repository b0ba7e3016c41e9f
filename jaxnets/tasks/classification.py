"""One label out of several classes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError, note
from jaxnets.core.types import Aux, Batch, Card, ConfusionMatrix, Exhibit, Gallery, Lines, Mean, Table, Variables
from jaxnets.tasks.base import Task, check_kind, evenly, with_outputs, with_padding, with_vocabulary
from jaxnets.tasks.losses import cross_entropy

# With more classes a confusion matrix is too large to read, and may not fit in memory.
MATRIX_CLASSES = 100
# Most numbers of outputs that a report uses: 100 MB.
MOST_OUTPUTS = 25_000_000
# Smallest number of examples for which calibration is shown.
ENOUGH_FOR_BINS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Minimise the cross entropy of the true label; measure accuracy.

    A batch holds `inputs` `[B, ...]`, `targets` `[B]` integer labels and `mask` `[B]`; the model returns logits `[B, C]`.
    Targets may also be distributions over the classes, `[B, C]` (soft targets: mixed examples, a teacher's probabilities). The
    loss is the cross entropy with the distribution; accuracy and figures take its most probable class as the label.
    """

    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes in training, in [0, 1)."""

    headline = "accuracy"
    higher_is_better = True
    has_probabilities: ClassVar[bool] = True
    """Whether the outputs are logits."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is a share in [0, 1), got {self.label_smoothing}")

    @property
    def takes_distributions(self) -> bool:
        """Yes."""
        return True

    def bind(self, card: Card) -> Self:
        """Set the model's outputs to the number of classes and, for text, its vocabulary."""
        if card.target_kind != "distribution" or not self.takes_distributions:
            check_kind(card, "class", f"{type(self).__name__} needs one integer label for each example")
        count = len(card.class_names)
        if count < 2:
            raise DataError(
                f"{card.name!r} has one class only ({', '.join(card.class_names)}), so there is nothing to classify; give "
                f"examples of another, or name the classes in class_names"
            )
        reason = f"the labels of {card.name!r} run from 0 to {count - 1} (out of range for the model)"
        model = with_outputs(self.model, count, exact=False, reason=reason)
        if card.tokens:
            model = with_padding(with_vocabulary(model, card.name, vocab_size=len(card.tokens.names)))
        return dataclasses.replace(self, model=model)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean cross entropy in nats over the unmasked examples."""
        logits, model_state = self.apply(variables, batch, key if train else None)
        losses = cross_entropy(logits, batch["targets"], label_smoothing=self.label_smoothing if train else 0.0)
        loss = Mean.of(losses, batch["mask"])
        return loss, Aux({"loss": loss, "accuracy": accuracy(logits, batch)}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Cross entropy in nats (never smoothed) and accuracy."""
        logits = self.outputs(variables, batch)
        loss = Mean.of(cross_entropy(logits, batch["targets"]), batch["mask"])
        return {"loss": loss, "accuracy": accuracy(logits, batch)}

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check for one label per example and at least one logit per class."""
        shape, count = jax.eval_shape(self.outputs, variables, batch).shape, len(card.class_names)
        wanted = (count,) if card.target_kind == "distribution" else ()
        if batch["targets"].shape[1:] != wanted:
            raise DataError(
                f"the targets of {card.name!r} have shape {batch['targets'].shape}, but {type(self).__name__} needs one label "
                f"for each example, [batch]; use a task for targets of this shape"
            )
        if len(shape) == 2 and shape[1] > count:
            note(
                f"{type(self.model).__name__} gives {shape[1]} outputs, but {card.name!r} has {count} classes, so "
                f"some outputs are never right; name all classes in class_names if the data lack some of them"
            )
        if len(shape) != 2 or shape[1] < count:
            raise DataError(
                f"{type(self.model).__name__} gives outputs of shape {shape}, but {card.name!r} has {count} classes: "
                f"classification needs [batch, {count}]; change the model's last layer"
            )

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """The class with the largest logit, `[B]` int32."""
        return outputs.argmax(axis=-1).astype(np.int32)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray | None:
        """The softmax of the logits, `[B, C]` float32; None if the task's scores are not logits."""
        return softmax(outputs) if self.has_probabilities else None

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """All rows, or as many as keep the outputs within `MOST_OUTPUTS`."""
        outputs = getattr(self.model, "outputs", None) or 1
        return evenly(examples, min(examples, max(1, MOST_OUTPUTS // outputs)))

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """The confusion matrix, a table of classes, and the worst misclassified images."""
        labels, guesses = hard(np.asarray(arrays["targets"])).astype(int), self.decide(outputs)
        count = max(len(card.class_names), outputs.shape[-1])
        names = (*card.class_names, *(str(i) for i in range(len(card.class_names), count)))
        asked = card.examples["test"] if "index" in arrays else len(labels)
        of = "test" if len(labels) >= asked else f"{len(labels):,} of {asked:,} test examples"
        shown: list[Exhibit] = []
        if count <= MATRIX_CLASSES:
            counts = np.zeros((count, count), int)
            np.add.at(counts, (labels, guesses), 1)
            shown.append(ConfusionMatrix(f"Confusion matrix ({of})", counts, names))
        shown.append(_class_table(labels, guesses, names, of))
        probabilities = self.probabilities(outputs)
        if probabilities is not None and len(labels) >= ENOUGH_FOR_BINS:
            shown += confidence_curves(probabilities, labels, of)
        if len(card.input_shape) == 3 and card.input_shape[-1] in (1, 3):
            shown.append(_most_wrong(outputs, labels, guesses, arrays["inputs"], names))
        return shown


def accuracy(logits: Array, batch: Batch) -> Mean:
    """The share of unmasked examples whose largest logit is that of the label, or of the most probable class."""
    return Mean.of((jnp.argmax(logits, axis=-1) == hard(batch["targets"])).astype(jnp.float32), batch["mask"])


def hard(targets: Any) -> Any:
    """Class numbers `[B]` of class numbers `[B]` or distributions `[B, C]`."""
    return targets.argmax(axis=-1) if targets.ndim == 2 else targets


def _class_table(labels: np.ndarray, guesses: np.ndarray, names: Sequence[str], of: str) -> Table:
    """Examples, precision and recall per class (of many classes the most frequent); a dash if undefined."""
    hits, true, predicted = (
        np.bincount(classes, minlength=len(names)) for classes in (labels[labels == guesses], labels, guesses)
    )
    chosen = np.arange(len(names))
    title = f"Class by class ({of})"
    if len(names) > MATRIX_CLASSES:
        chosen = np.argsort(-true, kind="stable")[:MATRIX_CLASSES]
        title = f"Class by class, the {MATRIX_CLASSES} most frequent of {len(names):,} ({of})"
    rows = tuple(
        (names[c], f"{true[c]}", share(hits[c], predicted[c]), share(hits[c], true[c])) for c in chosen.tolist()
    )
    return Table(title, ("class", "examples", "precision", "recall"), rows)


def confidence_curves(probabilities: np.ndarray, labels: np.ndarray, of: str) -> list[Exhibit]:
    """Calibration, and the effect of a threshold. For two classes: precision and recall of class 1 if it is predicted when its
    probability reaches the threshold. For more: the accuracy among the examples whose largest probability reaches it, and the
    share of these. Calibration is the accuracy in ten bins of the largest probability (Guo et al. 2017, "On calibration of
    modern neural networks").

    Args:
        probabilities: `[N, C]`.
        labels: `[N]` integers.
        of: the examples, for the title.
    """
    surest, right = probabilities.max(axis=-1), probabilities.argmax(axis=-1) == labels
    edges = np.linspace(0, 1, 11)
    bins = np.clip(np.digitize(surest, edges) - 1, 0, 9)
    counts = np.bincount(bins, minlength=10)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy_in = np.bincount(bins, right, 10) / counts
        confidence_in = np.bincount(bins, surest, 10) / counts
    rows = tuple(
        (f"{edges[b]:.1f} to {edges[b + 1]:.1f}", f"{counts[b]}", f"{confidence_in[b]:.3f}", f"{accuracy_in[b]:.3f}")
        for b in np.flatnonzero(counts)
    )
    error = float(np.nansum(np.abs(accuracy_in - confidence_in) * counts) / len(labels))
    title = f"Calibration ({of}): expected error {error:.3f}"
    table = Table(title, ("probability of the prediction", "examples", "mean probability", "accuracy"), rows)
    thresholds = np.linspace(0, 1, 101)
    two = probabilities.shape[1] == 2
    scores, good = (probabilities[:, 1], labels == 1) if two else (surest, right)
    order = np.argsort(scores)
    # Of the examples in order of their scores: how many reach each threshold, and how many of these are good.
    kept = len(labels) - np.searchsorted(scores[order], thresholds, side="left")
    hits = np.concatenate([[0], np.cumsum(good[order][::-1])])[kept]
    with np.errstate(invalid="ignore", divide="ignore"):
        share_good = hits / kept
    if two:
        curves, names = (share_good, hits / max(1, good.sum())), ("precision", "recall")
    else:
        curves, names = (share_good, kept / len(labels)), ("accuracy", "share kept")
    caption = "of class 1" if probabilities.shape[1] == 2 else "of examples whose prediction is that probable"
    lines = Lines(f"Thresholds ({of})", thresholds, np.stack(curves)[None], names, (caption,), "threshold", "")
    return [table, lines]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last dim, on the host."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)


def share(part: int, whole: int) -> str:
    """A share as text for a table; a dash if `whole` is 0."""
    return f"{part / whole:.3f}" if whole else "–"


def _most_wrong(
    outputs: np.ndarray, labels: np.ndarray, guesses: np.ndarray, images: np.ndarray, names: Sequence[str]
) -> Gallery:
    """The misclassified images with the highest predicted probability, at most 24, highest first."""
    probabilities = softmax(outputs)
    wrong = np.flatnonzero(guesses != labels)
    surest = wrong[np.argsort(-probabilities[wrong, guesses[wrong]], kind="stable")][:24]
    captions = tuple(f"{names[guesses[i]]} {probabilities[i, guesses[i]]:.0%}\nis {names[labels[i]]}" for i in surest)
    title = f"Most wrong: {len(surest)} of {len(wrong)} mistakes on {len(labels)} test examples, surest first"
    return Gallery(title, np.asarray(images[surest]), captions)
