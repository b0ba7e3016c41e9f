"""Message-passing graph networks: GCN, GraphSAGE, GAT, GIN.

Shapes: `B` graphs, `N` nodes in each (padding included), `E` directed edges in each (padding included), `F` features of a
node, `H` attention heads, `K` features of a head, `C` outputs.

A compiled program needs fixed sizes, so small graphs are padded and masks mark the real nodes and edges. One large graph is
a batch of one: `B` is 1. Results do not depend on the order of nodes or edges, nor on the amount of padding.
"""

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.wide import wide
from jaxnets.models.activations import Activation, activated
from jaxnets.models.layers import Dense, check_layers
from jaxnets.models.norms import BatchNorm

GLOROT = nn.initializers.glorot_uniform()


class Graph(NamedTuple):
    """A batch of graphs, the input of every model here."""

    nodes: Array
    """Features of the nodes, `[B, N, F]`."""
    edges: Array
    """Node indices (from, to), `[B, E, 2]` integers below N; an undirected edge is two directed ones."""
    node_mask: Array
    """Which nodes are real, `[B, N]` bool."""
    edge_mask: Array
    """Which edges are real, `[B, E]` bool."""


def gather(x: Array, index: Array) -> Array:
    """Node values for each edge: `[B, N, ...]` and node indices `[B, E]` to `[B, E, ...]`."""
    return jax.vmap(lambda nodes, rows: nodes[rows])(x, index)


def scatter_sum(messages: Array, index: Array, mask: Array, nodes: int) -> Array:
    """Sum of the unmasked messages that arrive at each node: `[B, E, ...]` to `[B, N, ...]`, summed in float32."""
    kept = jnp.where(mask.reshape(*mask.shape, *(1,) * (messages.ndim - 2)), wide(messages), 0.0)
    sums = jax.vmap(lambda m, rows: jax.ops.segment_sum(m, rows, num_segments=nodes))(kept, index)
    return sums.astype(messages.dtype)


def neighbours(graph: Graph, x: Array) -> Array:
    """Sum over each node's neighbours, `[B, N, F]` to the same shape."""
    return scatter_sum(gather(x, graph.edges[..., 0]), graph.edges[..., 1], graph.edge_mask, x.shape[1])


def degrees(graph: Graph) -> Array:
    """In-degree of each node, `[B, N, 1]` float32."""
    ones = jnp.ones(graph.edges.shape[:2], jnp.float32)
    return scatter_sum(ones, graph.edges[..., 1], graph.edge_mask, graph.nodes.shape[1])[..., None]


def edge_softmax(scores: Array, index: Array, mask: Array, nodes: int) -> Array:
    """Softmax over the real edges that arrive at the same node: `[B, E, H]` to the same shape, in float32."""
    scores = jnp.where(mask[..., None], wide(scores), -jnp.inf)
    largest = jax.vmap(lambda s, rows: jax.ops.segment_max(s, rows, num_segments=nodes))(scores, index)
    # Without incoming edges the maximum is -inf, and -inf - -inf would be NaN.
    largest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    weights = jnp.exp(scores - gather(largest, index))
    total = scatter_sum(weights, index, mask, nodes)
    return weights / gather(jnp.where(total > 0, total, 1.0), index)


def read_out(x: Array, mask: Array, how: str) -> Array:
    """Pool the real nodes of each graph: `[B, N, F]` to `[B, F]`; `how` is sum, mean or max."""
    real = mask[..., None]
    if how == "max":
        return jnp.where(real.any(axis=1), jnp.where(real, x, -jnp.inf).max(axis=1), 0.0).astype(x.dtype)
    total = jnp.where(real, x, 0.0).sum(axis=1)
    return total if how == "sum" else total / jnp.maximum(real.sum(axis=1), 1).astype(x.dtype)


class GCNLayer(nn.Module):
    """`D^-1/2 (A + I) D^-1/2 X W + b`, with `D` the degrees of `A + I` (Kipf and Welling 2017, eq. 2)."""

    width: int

    @nn.compact
    def __call__(self, graph: Graph, x: Array, *, train: bool = False) -> Array:
        """`[B, N, F]` to `[B, N, width]`."""
        # Scaling the nodes before and after the sum is the same as scaling each edge, and cheaper.
        scale = jax.lax.rsqrt(1 + degrees(graph)).astype(x.dtype)
        x = scale * Dense(self.width, use_bias=False, kernel_init=GLOROT, name="dense")(x)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return scale * (neighbours(graph, x) + x) + bias.reshape(1, 1, -1).astype(x.dtype)


class SAGELayer(nn.Module):
    """`W1 x + W2 mean(neighbours) + b` (Hamilton et al. 2017, algorithm 1 with the mean aggregator)."""

    width: int

    @nn.compact
    def __call__(self, graph: Graph, x: Array, *, train: bool = False) -> Array:
        """`[B, N, F]` to `[B, N, width]`."""
        own = Dense(self.width, kernel_init=GLOROT, name="own")(x)
        # The product and the mean commute; multiplying first is cheaper if the layer narrows.
        others = Dense(self.width, use_bias=False, kernel_init=GLOROT, name="others")(x)
        return own + neighbours(graph, others) / jnp.maximum(degrees(graph), 1).astype(x.dtype)


class GATLayer(nn.Module):
    """Each node attends to its neighbours and itself (Velickovic et al. 2018, eq. 1 to 6)."""

    width: int
    heads: int
    dropout: float
    merge: str

    @nn.compact
    def __call__(self, graph: Graph, x: Array, *, train: bool = False) -> Array:
        """`[B, N, F]` to `[B, N, heads * width]` where `merge` is concat, to `[B, N, width]` where it is mean."""
        B, N, _ = x.shape
        H, K = self.heads, self.width
        itself = jnp.broadcast_to(jnp.arange(N, dtype=graph.edges.dtype)[None, :, None], (B, N, 2))
        edges = jnp.concatenate([graph.edges, itself], axis=1)
        mask = jnp.concatenate([graph.edge_mask, graph.node_mask], axis=1)
        source, target = edges[..., 0], edges[..., 1]
        x = Dense(H * K, use_bias=False, kernel_init=GLOROT, name="dense")(x)
        x = x.reshape(B, N, H, K)
        # The paper's a^T [Wx_i, Wx_j] is a sum of two terms, one for each end of an edge.
        sent = jnp.einsum("bnhk,hk->bnh", x, self.param("attention_source", GLOROT, (H, K)).astype(x.dtype))
        received = jnp.einsum("bnhk,hk->bnh", x, self.param("attention_target", GLOROT, (H, K)).astype(x.dtype))
        scores = nn.leaky_relu(gather(sent, source) + gather(received, target), 0.2)
        weights = edge_softmax(scores, target, mask, N).astype(x.dtype)
        weights = nn.Dropout(self.dropout, deterministic=not train)(weights)
        x = scatter_sum(weights[..., None] * gather(x, source), target, mask, N)
        x = x.reshape(B, N, H * K) if self.merge == "concat" else x.mean(axis=2)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return x + bias.reshape(1, 1, -1).astype(x.dtype)


class GINLayer(nn.Module):
    """`MLP((1 + eps) x + sum(neighbours))` with a learned eps (Xu et al. 2019, eq. 4.1)."""

    width: int
    norm: str
    activation: str = "relu"

    @nn.compact
    def __call__(self, graph: Graph, x: Array, *, train: bool = False) -> Array:
        """`[B, N, F]` to `[B, N, width]`."""
        epsilon = self.param("epsilon", nn.initializers.zeros, ())
        x = (1 + epsilon).astype(x.dtype) * x + neighbours(graph, x)
        x = Dense(self.width, use_bias=self.norm == "none", name="dense_0")(x)
        if self.norm == "batch":
            norm = BatchNorm(use_running_average=not train, momentum=0.9, name="norm")
            # Padded nodes are excluded from the statistics.
            x = norm(x, mask=graph.node_mask[..., None])
        return Dense(self.width, name="dense_1")(activated(self.activation, x, "slope"))


class GraphNetwork(nn.Module):
    """Base of the four models: layers with activations between them, then outputs per node or per graph."""

    widths: tuple[int, ...] = (16,)
    """Features of a node after each hidden layer."""
    outputs: int | None = None
    """Outputs for each node or graph; None: the number of classes in the data."""
    dropout: float = 0.5
    """Probability of dropping a feature before each layer while training, in [0, 1)."""
    pool: Literal["none", "sum", "mean", "max"] = "none"
    """none: one more layer gives outputs for each node. Else the nodes are pooled and a dense layer follows."""
    activation: Activation = "relu"
    """The non-linearity after each hidden layer: see `Activation` in `activations.py`."""

    def __post_init__(self) -> None:
        check_layers(self)
        super().__post_init__()

    @nn.nowrap
    def layer(self, width: int, name: str) -> nn.Module:
        """One layer; each model defines its own."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, graph: Graph, *, train: bool = False) -> Array:
        """Outputs `[B, N, C]` (rows of padded nodes are meaningless), or `[B, C]` if nodes are pooled."""
        if not isinstance(graph, Graph):
            raise ValueError(
                f"{type(self).__name__} takes a Graph, not an array; train it with NodeClassification or "
                f"GraphClassification, on data from from_graph or from_graphs"
            )
        x = graph.nodes
        for index, width in enumerate(self.widths):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = self.layer(width, f"layer_{index}")(graph, x, train=train)
            x = activated(self.activation, x, f"slope_{index}")
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.pool == "none":
            return self.layer(self.outputs or 1, "output")(graph, x, train=train)
        return Dense(self.outputs or 1, name="output")(read_out(x, graph.node_mask, self.pool))


class GCN(GraphNetwork):
    """Graph convolutional network (Kipf and Welling 2017); the defaults are the paper's for citation graphs."""

    @nn.nowrap
    def layer(self, width: int, name: str) -> nn.Module:
        """See `GCNLayer`."""
        return GCNLayer(width, name=name)


class GraphSAGE(GraphNetwork):
    """GraphSAGE with the mean aggregator (Hamilton et al. 2017), over full neighbourhoods, without sampling."""

    @nn.nowrap
    def layer(self, width: int, name: str) -> nn.Module:
        """See `SAGELayer`."""
        return SAGELayer(width, name=name)


class GAT(GraphNetwork):
    """Graph attention network (Velickovic et al. 2018); the defaults are the paper's for citation graphs."""

    widths: tuple[int, ...] = (8,)
    """Features of each head after each hidden layer; the heads are concatenated."""
    dropout: float = 0.6
    """Probability of dropping a feature before each layer, and an edge's attention, while training, in [0, 1)."""
    heads: int = 8
    """Attention heads of a hidden layer."""
    output_heads: int = 1
    """Attention heads of the output layer for nodes; their outputs are averaged."""
    activation: Activation = "elu"
    """The non-linearity after each hidden layer (the paper's is elu): see `Activation` in `activations.py`."""

    def __post_init__(self) -> None:
        if min(self.heads, self.output_heads) < 1:
            raise ValueError(
                f"GAT: heads and output_heads are at least 1, got heads={self.heads}, output_heads={self.output_heads}"
            )
        super().__post_init__()

    @nn.nowrap
    def layer(self, width: int, name: str) -> nn.Module:
        """See `GATLayer`."""
        if name == "output":
            return GATLayer(width, self.output_heads, self.dropout, "mean", name=name)
        return GATLayer(width, self.heads, self.dropout, "concat", name=name)


class GIN(GraphNetwork):
    """Graph isomorphism network (Xu et al. 2019): as powerful as the Weisfeiler-Lehman test at telling graphs apart."""

    widths: tuple[int, ...] = (32, 32, 32)
    """Features of a node after each hidden layer."""
    dropout: float = 0.0
    """Probability of dropping a feature before each layer while training, in [0, 1)."""
    pool: Literal["none", "sum", "mean", "max"] = "sum"
    """none: one more layer gives outputs for each node. Else the nodes are pooled and a dense layer follows."""
    norm: Literal["none", "batch"] = "batch"
    """Normalisation inside each layer's MLP, over the real nodes of the batch (batch: Ioffe and Szegedy 2015)."""

    @nn.nowrap
    def layer(self, width: int, name: str) -> nn.Module:
        """See `GINLayer`."""
        return GINLayer(width, self.norm, self.activation, name=name)
