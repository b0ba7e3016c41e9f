"""Examples as rows of numbers, and three predictors without training: a constant, a linear one, the nearest neighbour."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnets.data.split import WEIGHTS
from jaxnets.preflight.subject import Subject

# Numbers of an example that the linear predictor and the neighbours look at; more are projected on so many at random.
MOST = 512
# Tokens that are counted, of a larger vocabulary the most frequent.
VOCABULARY = 1000


@dataclasses.dataclass(frozen=True)
class Rows:
    """Training and test examples as rows of numbers, and their targets."""

    train: np.ndarray
    """`[N, F]` float64."""
    test: np.ndarray
    """`[M, F]` float64."""
    train_targets: np.ndarray
    """Class numbers `[N]`, or numbers `[N, K]` in the unit of the loss."""
    test_targets: np.ndarray
    """Likewise, `[M]` or `[M, K]`."""
    classes: int
    """Number of classes; 0 for numbers."""


def flat_inputs(inputs: Any) -> np.ndarray | None:
    """Inputs `[N, ...]` as rows `[N, F]` float64; None for whole numbers and for several arrays."""
    if not isinstance(inputs, np.ndarray) or inputs.dtype.kind != "f" or inputs.ndim < 2:
        return None
    return inputs.reshape(len(inputs), -1).astype(np.float64)


def row_bytes(arrays: Mapping[str, np.ndarray], most: int | None = None) -> list[bytes]:
    """Of each example the bytes of all that a model may read: equal examples have equal ones."""
    kept = [np.ascontiguousarray(a[:most]) for name, a in sorted(arrays.items()) if name not in ("targets", *WEIGHTS)]
    return [b"".join(array[row].tobytes() for array in kept) for row in range(len(kept[0]))]


def rows_of(subject: Subject) -> Rows | None:
    """The sample of both splits as rows; None where the inputs are not one array, or the targets no class and no number."""
    train, test = (subject.prepared[split] for split in ("train", "test"))
    if subject.kind not in ("class", "number") or "node_mask" in train:
        return None
    classes = len(subject.parts.dataset.card.class_names) if subject.kind == "class" else 0
    if classes and train["targets"].ndim != 1:
        return None
    if subject.parts.dataset.card.tokens is not None:
        x, z = (_counts(arrays["inputs"]) for arrays in (train, test))
    else:
        found = [flat_inputs(arrays["inputs"]) for arrays in (train, test)]
        if found[0] is None or found[1] is None:
            return None
        x, z = found[0], found[1]
    if x.shape[1] > MOST:
        mix = np.random.default_rng(0).normal(size=(x.shape[1], MOST)) / np.sqrt(MOST)
        x, z = x @ mix, z @ mix
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    x, z = ((a - mean) / np.where(deviation > 1e-12, deviation, 1.0) for a in (x, z))
    y, w = train["targets"], test["targets"]
    if not classes:
        y, w = (a.reshape(len(a), -1).astype(np.float64) for a in (y, w))
    return Rows(x, z, y, w, classes)


def _counts(tokens: np.ndarray) -> np.ndarray:
    """How often each token occurs in a row, as a share."""
    made = np.zeros((len(tokens), VOCABULARY))
    rows = np.repeat(np.arange(len(tokens)), tokens.shape[1])
    np.add.at(made, (rows, np.minimum(tokens.ravel(), VOCABULARY - 1)), 1.0)
    made[:, 0] = 0.0  # padding
    return made / np.maximum(made.sum(axis=1, keepdims=True), 1.0)


def score(predicted: np.ndarray, rows: Rows, targets: np.ndarray | None = None) -> float:
    """Accuracy, or R2 averaged over the numbers, on the test rows."""
    true = rows.test_targets if targets is None else targets
    if rows.classes:
        return float((predicted == true).mean())
    spread = np.maximum(true.var(axis=0), 1e-12)
    return float((1 - np.square(predicted - true).mean(axis=0) / spread).mean())


def linear(rows: Rows) -> np.ndarray:
    """Predictions for the test rows by ridge regression, of one-hot classes or of the numbers."""
    y = np.eye(rows.classes)[rows.train_targets] if rows.classes else rows.train_targets
    x, mean = rows.train, y.mean(axis=0)
    # The penalty grows with the number of features, as for noise in every one of them.
    gram = x.T @ x + (0.1 * len(x) * min(1.0, x.shape[1] / len(x)) + 1e-3) * np.eye(x.shape[1])
    predicted = np.clip(rows.test, -10, 10) @ np.linalg.solve(gram, x.T @ (y - mean)) + mean
    return predicted.argmax(axis=1) if rows.classes else predicted


def neighbours(rows: Rows, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The number of the nearest training row of each test row (or of each row of `among`), and its squared distance."""
    asked = rows.test if among is None else among
    distances = np.square(asked).sum(axis=1)[:, None] + np.square(rows.train).sum(axis=1)[None, :]
    distances = distances - 2 * asked @ rows.train.T
    if among is rows.train:
        np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    return nearest, np.maximum(distances[np.arange(len(asked)), nearest], 0.0)


def constant(rows: Rows) -> float:
    """The score of the best constant prediction."""
    if rows.classes:
        return float((rows.test_targets == np.bincount(rows.train_targets).argmax()).mean())
    return score(np.broadcast_to(rows.train_targets.mean(axis=0), rows.test_targets.shape), rows)
