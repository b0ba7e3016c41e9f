"""Embeddings learned without labels, and their quality measured with labels: nearest neighbours and a linear probe.

Shapes: `B` batch, `N` examples, `D` numbers of an embedding, `C` classes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Batch, Card, Mean, Rows, Variables
from jaxnets.ops.random import batch_keys
from jaxnets.tasks.base import Task, evenly
from jaxnets.tasks.views import Views

# Most examples of a split that are compared with each other.
COMPARED = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding(Task):
    """Base of tasks that learn embeddings without labels; a subclass has `embed`, `loss` and `own_metrics`.

    If the data have classes, an evaluation measures `knn`, the accuracy of the nearest neighbours (by cosine) of each
    example among the others of the split, and `probe`, that of a linear classifier fitted to every other example and measured
    on the rest. Both are measured on at most 4,096 examples. `spread` is the mean deviation of the numbers of a normalised
    embedding times the square root of `D`: about 1 if embeddings are spread over all directions, 0 if they have collapsed.
    """

    neighbours: int = 5
    """Neighbours that vote in `knn`."""
    classes: int = 0
    """Number of classes, taken from the data; 0: they have none."""

    more_is_better: ClassVar[tuple[str, ...]] = ("knn", "probe", "spread")
    given_targets = "auto"

    @property
    def headline(self) -> str:  # type: ignore[override]
        """`knn` if there are classes, else `spread`."""
        return "knn" if self.classes else "spread"

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """True."""
        return True

    def _check_neighbours(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours is at least 1, got {self.neighbours}")

    def bind(self, card: Card) -> Self:
        """Take the number of classes."""
        return dataclasses.replace(self, classes=len(card.class_names) if card.target_kind == "class" else 0)

    def embed(self, variables: Variables, batch: Batch) -> Array:
        """Embeddings `[B, D]` of the inputs, in evaluation."""
        raise NotImplementedError

    def own_metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Further metrics of a subclass; they may not depend on the other examples of the batch."""
        raise NotImplementedError

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """The embeddings, `[B, D]` float32."""
        return jnp.asarray(self.embed(variables, batch), jnp.float32)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Any]:
        """The subclass's own, and the embeddings, which `derive` measures."""
        rows = {"embedding": self.outputs(variables, batch)}
        if self.classes:
            rows["label"] = batch["targets"]
        return {**self.own_metrics(variables, batch), "rows": Rows(rows, batch["mask"])}

    def derive(self, values: Mapping[str, Any]) -> dict[str, float]:
        """`spread`, and with classes `knn` and `probe`."""
        found = {name: value for name, value in values.items() if name != "rows"}
        if "rows" not in values:  # of training steps, which measure no embeddings
            return found
        if not isinstance(values["rows"], Mapping):  # a caller that needs only the names of the metrics
            return found | dict.fromkeys(("spread", *(("knn", "probe") if self.classes else ())), float("nan"))
        chosen = evenly(len(values["rows"]["embedding"]), COMPARED)
        vectors = values["rows"]["embedding"][chosen].astype(np.float64)
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        found["spread"] = float(unit.std(axis=0).mean() * np.sqrt(unit.shape[1]))
        if "label" in values["rows"]:
            labels = values["rows"]["label"][chosen].astype(int)
            found["knn"] = neighbour_accuracy(unit, labels, self.neighbours)
            found["probe"] = probe_accuracy(vectors, labels)
        return found

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check for one vector for each example."""
        shape = jax.eval_shape(self.outputs, variables, batch).shape
        if len(shape) != 2:
            raise DataError(
                f"{type(self.model).__name__} gives outputs of shape {shape}, but an embedding is one vector for each "
                f"example, [batch, numbers]; change the model's last layer"
            )


def neighbour_accuracy(unit: np.ndarray, labels: np.ndarray, neighbours: int) -> float:
    """Share of examples whose label is the most frequent one among their nearest neighbours (of several such, the smallest).

    Args:
        unit: `[N, D]`, of norm 1.
        labels: `[N]` integers.
        neighbours: how many others vote, at most `N - 1`.
    """
    count, right = len(unit), 0
    neighbours = min(neighbours, count - 1)
    if neighbours < 1:
        return float("nan")
    for start in range(0, count, 512):
        rows = np.arange(start, min(start + 512, count))
        scores = unit[rows] @ unit.T
        scores[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argpartition(-scores, neighbours - 1, axis=1)[:, :neighbours]
        votes = (labels[nearest][:, :, None] == np.arange(labels.max() + 1)[None, None, :]).sum(axis=1)
        right += int((votes.argmax(axis=1) == labels[rows]).sum())
    return right / count


def probe_accuracy(vectors: np.ndarray, labels: np.ndarray, ridge: float = 1e-3) -> float:
    """Accuracy on the odd rows of a least-squares classifier fitted to the even ones.

    Args:
        vectors: `[N, D]` float64.
        labels: `[N]` integers.
        ridge: added to the variances, which are 1.
    """
    fitted, held = slice(0, None, 2), slice(1, None, 2)
    if len(labels) < 2:
        return float("nan")
    mean, deviation = vectors[fitted].mean(axis=0), vectors[fitted].std(axis=0)
    x = np.pad((vectors - mean) / np.where(deviation > 1e-12, deviation, 1.0), ((0, 0), (0, 1)), constant_values=1.0)
    hot = (labels[:, None] == np.arange(labels.max() + 1)[None, :]).astype(np.float64)
    moments = x[fitted].T @ x[fitted] / len(x[fitted]) + ridge * np.eye(x.shape[1])
    weights = np.linalg.solve(moments, x[fitted].T @ hot[fitted] / len(x[fitted]))
    return float(((x[held] @ weights).argmax(axis=1) == labels[held]).mean())


def two_views(views: Views, batch: Batch, key: Array) -> Array:
    """Two views of each example, one after the other: `[2 B, ...]`, so that both lie on the device of their example."""
    keys = [batch_keys(key, batch, "view", turn) for turn in (0, 1)]
    made = jnp.stack([jax.vmap(views)(each, batch["inputs"]) for each in keys], axis=1)
    return made.reshape(-1, *made.shape[2:])
