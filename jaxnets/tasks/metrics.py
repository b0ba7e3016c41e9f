"""Metrics that are not means over examples: they are computed once, from all examples of a split.

A metric takes arrays from each batch on the device (`rows`) and computes one number from all of them on the host, in float64
(`value`). So it does not depend on the size of a batch or on the number of devices. Definitions are those of scikit-learn.

Shapes: `N` examples, `C` classes, `L` labels that may hold at once.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jax import Array

from jaxnets.core.types import Batch

Rows = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Metric:
    """Base of all metrics; a subclass has `value`, and `rows` if it needs other arrays."""

    higher_is_better = True
    """Whether a larger value is better."""

    def rows(self, outputs: Any, batch: Batch) -> dict[str, Array]:
        """Arrays `[B, ...]` of one batch; traced."""
        return {"outputs": outputs, "targets": batch["targets"]}

    def value(self, rows: Rows) -> float:
        """The metric of all examples; NaN if it is not defined for them."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class F1(Metric):
    """The harmonic mean of precision and recall, `2 tp / (2 tp + fp + fn)`."""

    average: Literal["macro", "micro", "binary"] = "macro"
    """macro: the mean over the classes that occur; micro: of all decisions together; binary: of class 1 alone."""

    def value(self, rows: Rows) -> float:
        """See `Metric`."""
        true, predicted = _decisions(rows)
        hits, wrong, missed = (
            (a & b).sum(axis=0) for a, b in ((true, predicted), (~true, predicted), (true, ~predicted))
        )
        if self.average == "micro":
            hits, wrong, missed = hits.sum(), wrong.sum(), missed.sum()
        bottom = 2 * hits + wrong + missed
        scores = np.where(bottom > 0, 2 * hits / np.maximum(bottom, 1), 0.0)
        if self.average == "binary":
            return float(scores[-1])
        occurs = bottom > 0
        return float(scores[occurs].mean()) if np.any(occurs) else float("nan")


@dataclasses.dataclass(frozen=True)
class AUROC(Metric):
    """Area under the receiver operating characteristic: the share of (positive, negative) pairs in the right order.

    Of more than two classes, the mean over the classes of one against the rest.
    """

    def value(self, rows: Rows) -> float:
        """See `Metric`."""
        return _mean_over_classes(rows, _area)


@dataclasses.dataclass(frozen=True)
class AveragePrecision(Metric):
    """The sum of precisions at each threshold, each times the gain in recall; of several classes, the mean."""

    def value(self, rows: Rows) -> float:
        """See `Metric`."""
        return _mean_over_classes(rows, _average_precision)


@dataclasses.dataclass(frozen=True)
class CalibrationError(Metric):
    """Expected calibration error (Guo et al. 2017): the mean difference of confidence and accuracy over bins of confidence."""

    higher_is_better = False
    bins: int = 15
    """Bins of equal width between 0 and 1."""

    def value(self, rows: Rows) -> float:
        """See `Metric`."""
        probabilities = _probabilities(rows["outputs"])
        right = probabilities.argmax(axis=1) == rows["targets"]
        confidence = probabilities.max(axis=1)
        which = np.clip(np.ceil(confidence * self.bins).astype(int) - 1, 0, self.bins - 1)
        gaps = np.bincount(which, weights=right - confidence, minlength=self.bins)
        return float(np.abs(gaps).sum() / len(right)) if len(right) else float("nan")


def _probabilities(outputs: np.ndarray) -> np.ndarray:
    """`[N, C]` float64 from logits `[N, C]`; from one logit `[N]` or `[N, 1]` those of class 0 and 1."""
    logits = outputs.astype(np.float64)
    if logits.ndim == 1 or logits.shape[1] == 1:
        logits = np.stack([np.zeros(len(logits)), logits.reshape(len(logits))], axis=1)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _scores(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Scores and truths `[N, K]` of K yes-or-no questions: one for two classes, else one for each class or label."""
    outputs, targets = rows["outputs"], np.asarray(rows["targets"])
    if targets.ndim == 2:
        return outputs.astype(np.float64), targets > 0.5
    probabilities = _probabilities(outputs)
    classes = probabilities.shape[1]
    if classes == 2:
        # The difference of the logits has the order of the probabilities, and does not round to 0 or 1.
        logits = outputs.astype(np.float64).reshape(len(outputs), -1)
        return (logits[:, -1:] - (logits[:, :1] if logits.shape[1] == 2 else 0.0)), (targets == 1)[:, None]
    return probabilities, targets[:, None] == np.arange(classes)[None]


def _decisions(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Truths and predictions `[N, C]` bool."""
    outputs, targets = rows["outputs"], np.asarray(rows["targets"])
    if targets.ndim == 2:
        return targets > 0.5, outputs > 0
    classes = np.arange(_probabilities(outputs).shape[1])[None]
    return targets[:, None] == classes, _probabilities(outputs).argmax(axis=1)[:, None] == classes


def _mean_over_classes(rows: Rows, of: Any) -> float:
    scores, truths = _scores(rows)
    values = [of(score, truth) for score, truth in zip(scores.T, truths.T, strict=True)]
    return float(np.mean(values))


def _area(scores: np.ndarray, truths: np.ndarray) -> float:
    """From the ranks of the positives (Mann and Whitney 1947); equal scores share their mean rank."""
    positives, negatives = int(truths.sum()), int((~truths).sum())
    if not positives or not negatives:
        return float("nan")
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return float((ranks[truths].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _average_precision(scores: np.ndarray, truths: np.ndarray) -> float:
    if not truths.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(truths[order])
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # equal scores share one threshold
    precision, recall = hits[last] / (last + 1), hits[last] / truths.sum()
    return float((precision * np.diff(recall, prepend=0.0)).sum())
