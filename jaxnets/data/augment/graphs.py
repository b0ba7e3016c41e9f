"""Random changes to graphs. Shapes: `B` graphs, `E` edges, `N` nodes, `F` features."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Batch
from jaxnets.data.augment.base import Augmentation, Facts, check_shares, keys_of, wrong_inputs


@dataclasses.dataclass(frozen=True)
class GraphAugment(Augmentation):
    """Changes of graphs; the defaults change nothing."""

    drop_edges: float = 0.0
    """Probability that an edge is masked in a step (DropEdge, Rong et al. 2020); both directions of an edge go together."""
    drop_features: float = 0.0
    """Probability that a feature of a node is set to 0 in a step. (Unlike dropout, the rest is not scaled up.)"""

    def __post_init__(self) -> None:
        check_shares(self, "drop_edges", "drop_features")

    def check(self, facts: Facts) -> None:
        """See `Augmentation`."""
        if "edges" not in facts.arrays or "edge_mask" not in facts.arrays:
            raise wrong_inputs(
                "GraphAugment", "graphs, with the arrays 'edges' and 'edge_mask'", facts,
                "Make the data with from_graphs or from_graph, or use another augmentation",
            )  # fmt: skip

    def change(self, batch: Batch, key: Array, facts: Facts) -> Batch:
        """See `Augmentation`."""
        keys = jax.vmap(jax.random.split)(keys_of(batch, key))
        batch = {**batch}
        if self.drop_edges:
            kept = jax.vmap(lambda one, edges: ~dropped_edges(one, edges, self.drop_edges, facts.shape[0]))
            batch["edge_mask"] = batch["edge_mask"] & kept(keys[:, 0], batch["edges"])
        if self.drop_features:
            inputs = batch["inputs"]
            zeroed = jax.vmap(lambda one: jax.random.bernoulli(one, self.drop_features, inputs.shape[1:]))(keys[:, 1])
            batch["inputs"] = jnp.where(zeroed, 0.0, inputs)
        return batch


def dropped_edges(key: Array, edges: Array, rate: float, nodes: int) -> Array:
    """Which of `edges` `[E, 2]` are dropped, `[E]` bool: a draw for each pair of nodes, so that (a, b) and (b, a) agree."""
    first, second = edges.min(axis=1), edges.max(axis=1)
    if nodes * nodes < 2**31:
        keys = jax.vmap(lambda pair: jax.random.fold_in(key, pair))(first * nodes + second)
    else:
        keys = jax.vmap(lambda a, b: jax.random.fold_in(jax.random.fold_in(key, a), b))(first, second)
    return jax.vmap(lambda one: jax.random.bernoulli(one, rate))(keys)
