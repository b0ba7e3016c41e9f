"""The squared error of several runs as squared bias and variance.

Shapes: `S` runs, `N` examples, `K` numbers of a prediction.

For one target y and the predictions f_1 ... f_S of S runs with mean m, exactly (the cross terms sum to 0),

    mean_s (f_s - y)^2 = (m - y)^2 + mean_s (f_s - m)^2

On average over draws of the runs, the last term is (S - 1) / S of the variance of a prediction, and the first one is too large
by the remaining 1 / S of it. So the variance here is the unbiased one, the last term times S / (S - 1), and the squared bias
is the rest of the error: the mean of both does not depend on the number of runs. The squared bias contains the noise of the
targets, which no run can predict. (Geman, Bienenstock and Doursat 1992, "Neural networks and the bias/variance dilemma".)
"""

import dataclasses
import math

import numpy as np

from jaxnets.core.errors import UsageError
from jaxnets.data.dataset import Dataset
from jaxnets.data.large import shown as rows_shown
from jaxnets.data.split import WEIGHTS
from jaxnets.tasks.base import Task, evenly
from jaxnets.tasks.classification import Classification
from jaxnets.tasks.forecasting import Forecasting
from jaxnets.tasks.multilabel import MultiLabel
from jaxnets.tasks.regression import Regression

# Most numbers that are saved of the predictions of one run: 20 MB.
MOST_NUMBERS = 5_000_000
BRIER = "Brier score"
SQUARED = "squared error"


@dataclasses.dataclass(frozen=True)
class BiasVariance:
    """The mean squared error of some runs and its two parts."""

    error: float
    """Mean over examples and runs: `bias + variance`."""
    variance: float
    """Of the prediction over runs, unbiased; mean over examples."""
    of_mean: float
    """The error of the mean prediction, which is lower than that of the runs by `variance * (S - 1) / S`."""

    @property
    def bias(self) -> float:
        """The squared bias with the noise of the targets; an estimate, which may come out a little below 0."""
        return self.error - self.variance


def bias_variance(predictions: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> BiasVariance:
    """The parts of the squared error, summed over the K numbers of a prediction, averaged over examples.

    Args:
        predictions: `[S, N, K]` of two runs or more, all finite.
        targets: `[N, K]`.
        weights: `[N]` of the examples; None: all the same.

    Raises:
        UsageError: one run, or shapes that do not fit.
    """
    if predictions.ndim != 3 or predictions.shape[1:] != targets.shape:
        raise UsageError(f"predictions are [runs, {', '.join(map(str, targets.shape))}], got {predictions.shape}")
    runs = len(predictions)
    if runs < 2:
        raise UsageError(f"a variance takes two runs or more, got {runs}")
    predictions, targets = predictions.astype(np.float64), targets.astype(np.float64)
    mean = predictions.mean(axis=0)

    def averaged(squares: np.ndarray) -> float:
        return float(np.average(squares.sum(axis=-1), weights=weights))

    return BiasVariance(
        error=averaged(np.square(predictions - targets[None]).mean(axis=0)),
        variance=averaged(np.square(predictions - mean[None]).mean(axis=0)) * runs / (runs - 1),
        of_mean=averaged(np.square(mean - targets)),
    )


@dataclasses.dataclass(frozen=True)
class Scored:
    """Examples of a split on which the predictions of a task have a squared error."""

    name: str
    """The name of the error: the Brier score of probabilities (Brier 1950), or the squared error of outputs."""
    rows: np.ndarray
    """Numbers of the examples in the split, `[N]`: all, or as many as keep the predictions within 20 MB."""
    targets: np.ndarray
    """`[N, K]` float32: distributions over classes, labels, or encoded numbers."""
    weights: np.ndarray | None
    """`[N]` of the examples; None: all the same."""
    divisor: int = 1
    """1 for classes, whose error is a sum over them; K if the error is a mean over labels or numbers, as the loss is."""

    def predictions(self, task: Task, outputs: np.ndarray) -> np.ndarray | None:
        """The model's outputs in the form of the targets, `[N, K]` float32; None if they have another form."""
        found = outputs if self.name == SQUARED else task.probabilities(outputs)
        if found is None or len(found) != len(self.targets) or (self.name == BRIER and found.ndim != 2):
            return None
        found = np.asarray(found, np.float32).reshape(len(found), -1)
        # A model may have more outputs than the data have classes.
        fits = found.shape[1] == self.targets.shape[1] or (
            self.divisor == 1 and found.shape[1] > self.targets.shape[1] > 1
        )
        return found if fits else None

    def parts(self, predictions: np.ndarray) -> BiasVariance:
        """Those of the error of predictions `[S, N, K]`."""
        missing = predictions.shape[2] - self.targets.shape[1]
        found = bias_variance(predictions, np.pad(self.targets, [(0, 0), (0, missing)]), self.weights)
        return BiasVariance(*(part / self.divisor for part in dataclasses.astuple(found)))


def scored(task: Task, dataset: Dataset, split: str) -> Scored | None:
    """The targets for splitting the error of a task; None for tasks without such predictions (language models, GANs).

    Args:
        task: bound to the data.
        dataset: the data.
        split: "test" or "validation".
    """
    card, arrays = dataset.card, dataset.test if split == "test" or not dataset.validation else dataset.validation
    width = len(card.class_names) or math.prod(card.target_shape)
    rows = evenly(len(arrays["targets"]), max(1, MOST_NUMBERS // max(1, width)))
    shown = rows_shown(arrays, rows)
    targets, inner = np.asarray(shown["targets"]), getattr(task, "inner", task)
    weights = [shown[name] for name in WEIGHTS if name in shown]
    weight = np.prod(weights, axis=0) if weights else None
    if getattr(task, "objective", None) is not None:
        return None  # only the user knows the meaning of the outputs
    if isinstance(inner, Regression | Forecasting):
        encoded = task.encode_targets(targets).reshape(len(rows), -1)
        return Scored(SQUARED, rows, encoded, weight, encoded.shape[1])
    if task.probabilities(np.zeros((1, 2), np.float32)) is None:
        return None
    if isinstance(inner, MultiLabel) and not (targets < 0).any():  # unknown labels have no error
        return Scored(BRIER, rows, targets.astype(np.float32), weight, targets.shape[1])
    if isinstance(inner, Classification) and targets.ndim == 1:
        return Scored(BRIER, rows, np.eye(width, dtype=np.float32)[targets.astype(int)], weight)
    if isinstance(inner, Classification) and card.target_kind == "distribution":
        return Scored(BRIER, rows, targets.astype(np.float32), weight)
    return None
