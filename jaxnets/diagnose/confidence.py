"""The reliability of a classifier's probabilities: calibration, conformal prediction sets, out-of-distribution examples.

Shapes: `N` examples, `C` classes. All are numpy arrays, as `run.outputs` and `run.probabilities` give them.
"""

from typing import Any, Literal, NamedTuple

import numpy as np

from jaxnets.core.errors import UsageError


class Reliability(NamedTuple):
    """Examples by the probability of their prediction, in bins of equal width; NaN for an empty bin."""

    confidence: np.ndarray
    """Mean probability of the predicted class, `[bins]`."""
    accuracy: np.ndarray
    """Share of right predictions, `[bins]`."""
    examples: np.ndarray
    """Examples in the bin, `[bins]`."""

    @property
    def error(self) -> float:
        """The expected calibration error: the mean of `|accuracy - confidence|` over the examples."""
        filled = self.examples > 0
        apart = np.abs(self.accuracy - self.confidence)[filled]
        return float((apart * self.examples[filled]).sum() / self.examples.sum())


def reliability(probabilities: Any, labels: Any, *, bins: int = 15) -> Reliability:
    """The accuracy of a classifier by its confidence (Guo et al. 2017); its `error` is the ECE.

    Args:
        probabilities: `[N, C]`.
        labels: class numbers, `[N]`.
        bins: of equal width in (0, 1].
    """
    shares, truth = _checked(probabilities, labels)
    if bins < 1:
        raise UsageError(f"bins is at least 1, got {bins}")
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == truth
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(which, values, minlength=bins) / count for values in (confidence, right)]
    return Reliability(means[0], means[1], count)


def softmax(logits: Any, temperature: float = 1.0) -> np.ndarray:
    """Probabilities `[N, C]` float64 of logits divided by a temperature."""
    scaled = np.asarray(logits, np.float64) / temperature
    shares = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def best_temperature(logits: Any, labels: Any) -> float:
    """The temperature that maximises the likelihood of given labels (Guo et al. 2017, section 4.2), in [0.001, 1000].

    The negative log-likelihood is convex in 1 / temperature, so bisection of its slope finds the only minimum. Predictions do
    not change. Fit it on a validation split.

    Args:
        logits: `[N, C]`.
        labels: class numbers, `[N]`.
    """
    scores, truth = _checked(logits, labels)
    given = scores[np.arange(len(truth)), truth]
    low, high = np.log(1e-3), np.log(1e3)  # of 1 / temperature
    for _ in range(60):
        middle = (low + high) / 2
        slope = ((softmax(scores, np.exp(-middle)) * scores).sum(axis=1) - given).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def conformal_threshold(probabilities: Any, labels: Any, *, alpha: float = 0.1) -> float:
    """The threshold of the class probability for prediction sets that contain the true class with probability `1 - alpha` or
    more.

    Split conformal prediction (Vovk et al. 2005; Angelopoulos and Bates 2023): of the `n` probabilities of the true classes,
    the `floor((n + 1) alpha)`-th smallest; 0 where that is none. The guarantee is over the joint draw of calibration and new
    examples, which must be exchangeable and not those of training.

    Args:
        probabilities: of calibration examples, `[N, C]`.
        labels: class numbers, `[N]`.
        alpha: in (0, 1).
    """
    if not 0 < alpha < 1:
        raise UsageError(f"alpha is the share of misses that is allowed, in (0, 1); got {alpha}")
    shares, truth = _checked(probabilities, labels)
    rank = int(np.floor((len(truth) + 1) * alpha + 1e-9))
    return float(np.sort(shares[np.arange(len(truth)), truth])[rank - 1]) if rank else 0.0


def conformal_sets(probabilities: Any, threshold: float) -> np.ndarray:
    """Which classes are in the prediction set of each example, `[N, C]` bool; a set may be empty."""
    return np.asarray(probabilities) >= threshold


def foreignness(logits: Any, *, by: Literal["softmax", "energy"] = "energy", temperature: float = 1.0) -> np.ndarray:
    """An out-of-distribution score of each example, `[N]`; larger means less similar to the training examples.

    Args:
        logits: `[N, C]`.
        by: softmax: minus the largest probability (Hendrycks and Gimpel 2017). energy: minus the log-sum-exp of the logits
            times the temperature (Liu et al. 2020, eq. 4).
        temperature: that the logits are divided by, above 0.
    """
    if temperature <= 0:
        raise UsageError(f"temperature is above 0, got {temperature}")
    if by == "softmax":
        return -softmax(logits, temperature).max(axis=-1)
    scaled = np.asarray(logits, np.float64) / temperature
    return -temperature * np.logaddexp.reduce(scaled, axis=-1)


def auroc(negatives: Any, positives: Any) -> float:
    """The area under the ROC curve: how often a positive's score is above a negative's; a tie counts half.

    Args:
        negatives: scores of one kind, `[N]`, such as `foreignness` of test examples.
        positives: those of the other, `[M]`, such as of foreign examples.
    """
    low, high = np.sort(np.asarray(negatives, float).ravel()), np.asarray(positives, float).ravel()
    if not low.size or not high.size or np.isnan(low).any() or np.isnan(high).any():
        raise UsageError(f"auroc compares numbers of two kinds, got {low.size} and {high.size}, NaN not among them")
    below = np.searchsorted(low, high, side="left") + np.searchsorted(low, high, side="right")
    return float(below.mean() / (2 * low.size))


def _checked(rows: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    found, truth = np.asarray(rows, np.float64), np.asarray(labels)
    if found.ndim != 2 or truth.shape != found.shape[:1] or not len(truth):
        raise UsageError(
            f"there is one row [C] and one class number for each example; got {found.shape} and {truth.shape}"
        )
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= found.shape[1]:
        raise UsageError(
            f"labels are class numbers from 0 to {found.shape[1] - 1}, got {np.unique(truth)[:5].tolist()}"
        )
    return found, truth
