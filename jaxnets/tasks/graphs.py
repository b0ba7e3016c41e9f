"""Classification of whole graphs, or of the nodes of a graph.

Shapes: `B` graphs, `N` nodes, `E` edges, `F` features, `C` classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Mean, Variables
from jaxnets.core.wide import wide
from jaxnets.models.graph import Graph
from jaxnets.ops.roles import weights
from jaxnets.tasks.classification import Classification, accuracy
from jaxnets.tasks.losses import cross_entropy

ARRAYS = ("edges", "node_mask", "edge_mask")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphClassification(Classification):
    """One label for each graph.

    A batch holds `inputs` `[B, N, F]`, `edges` `[B, E, 2]`, `node_mask` `[B, N]` and `edge_mask` `[B, E]` (see
    `jaxnets.data.from_graphs`), `targets` `[B]` and `mask` `[B]`; the model returns logits `[B, C]`.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        """See `Task`."""
        return ARRAYS

    def inputs_of(self, batch: Batch) -> Graph:
        """The batch as a `Graph`, the input of the models in `jaxnets.models.graph`."""
        missing = [name for name in ARRAYS if name not in batch]
        if missing:
            raise DataError(
                f"{type(self).__name__} needs graphs, but the data have no {', '.join(missing)}, only {', '.join(batch)}; "
                f"make them with from_graphs or from_graph of jaxnets.data, or use Classification"
            )
        return Graph(batch["inputs"], batch["edges"], batch["node_mask"], batch["edge_mask"])

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check for one label and one row of logits per graph."""
        if len(jax.eval_shape(self.outputs, variables, batch).shape) == 3:
            raise DataError(
                f"{type(self.model).__name__} gives outputs for each node, but GraphClassification needs them for each "
                f"graph; set the model's pool to sum, mean or max"
            )
        super().check_outputs(variables, batch, card)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeClassification(GraphClassification):
    """One label for each node.

    A batch is as for `GraphClassification`, but with `targets` `[B, N]` and `counted` `[B, N]` bool, which marks the nodes
    whose labels count: the training nodes in training, the test nodes in the test. All nodes pass messages, labelled or not.
    The model returns logits `[B, N, C]`.
    """

    l2: float = 0.0
    """Weight of the penalty `l2 / 2 * sum(w^2)` over all weights (`jaxnets.ops.roles`), added to the training loss. The GCN
    paper penalises only the first layer; AdamW's decoupled weight decay is different."""

    @property
    def reads(self) -> tuple[str, ...]:
        """See `Task`."""
        return (*ARRAYS, "counted")

    @property
    def takes_distributions(self) -> bool:
        """No: the nodes have labels."""
        return False

    def __post_init__(self) -> None:
        if self.l2 < 0:
            raise ValueError(f"l2 is at least 0, got {self.l2}")
        super().__post_init__()

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean cross entropy in nats over the counted nodes, and the penalty."""
        logits, model_state = self.apply(variables, batch, key if train else None)
        logits, nodes = flatten(logits, batch)
        losses = cross_entropy(logits, nodes["targets"], label_smoothing=self.label_smoothing if train else 0.0)
        loss = Mean.of(losses, nodes["mask"])
        if self.l2 and train:
            squares = [
                jnp.square(wide(leaf)).sum()
                for leaf, counts in zip(
                    jax.tree.leaves(variables["params"]), jax.tree.leaves(weights(variables["params"])), strict=True
                )
                if counts
            ]
            # Multiply by the weight, since the mean divides by it later.
            loss = Mean(loss.sum + 0.5 * self.l2 * sum(squares) * loss.weight, loss.weight)
        return loss, Aux({"loss": loss, "accuracy": accuracy(logits, nodes)}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Cross entropy in nats (without the penalty) and accuracy over the counted nodes."""
        logits, nodes = flatten(self.outputs(variables, batch), batch)
        loss = Mean.of(cross_entropy(logits, nodes["targets"]), nodes["mask"])
        return {"loss": loss, "accuracy": accuracy(logits, nodes)}

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check for one label and one row of logits per node."""
        count = len(card.class_names)
        if "counted" not in batch or len(batch["targets"].shape) != 2:
            raise DataError(
                f"NodeClassification needs targets [graphs, nodes] and the array 'counted', which marks the labels that "
                f"count; {card.name!r} has targets {batch['targets'].shape} and {', '.join(batch)}. Make the data with "
                f"jaxnets.data.from_graph, or use GraphClassification"
            )
        shape = jax.eval_shape(self.outputs, variables, batch).shape
        if len(shape) != 3 or shape[2] < count:
            raise DataError(
                f"{type(self.model).__name__} gives outputs of shape {shape}, but {card.name!r} has {count} classes: "
                f"NodeClassification needs [graphs, nodes, {count}]; set the model's pool to none"
            )

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """The confusion matrix and the table of classes, over the counted nodes."""
        counted = arrays["counted"] & arrays["node_mask"]
        return super().exhibits(outputs[counted], {"targets": arrays["targets"][counted]}, card)


def flatten(logits: Array, batch: Batch) -> tuple[Array, Batch]:
    """Logits `[B * N, C]`, and a batch of nodes with `targets` and `mask`, both `[B * N]`."""
    counted = batch["mask"][:, None] * (batch["counted"] & batch["node_mask"])
    nodes = {"targets": batch["targets"].reshape(-1), "mask": counted.reshape(-1)}
    return logits.reshape(-1, logits.shape[-1]), nodes
