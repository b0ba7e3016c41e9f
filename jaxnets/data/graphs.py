"""Graph data: many small graphs to classify, or one large graph whose nodes are classified.

A graph has node features `[n, F]` and edges `[e, 2]`, pairs of node numbers. A data set pads all graphs to the size of the
largest, `N` nodes and `E` directed edges: `inputs` `[G, N, F]`, `edges` `[G, E, 2]`, `node_mask` `[G, N]`, `edge_mask`
`[G, E]`. The masks mark real nodes and edges. One large graph is a data set of one example.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.arrays import from_arrays, note_coarse
from jaxnets.data.augment import as_augment
from jaxnets.data.dataset import Arrays, Dataset
from jaxnets.data.flavours import is_missing, plain_array, plain_numbers
from jaxnets.data.targets import check_finite, encode_targets


def pad_graphs(graphs: Sequence[tuple[Any, Any]], *, name: str = "graphs", undirected: bool = True) -> Arrays:
    """Pad graphs of any sizes to arrays of one size, without targets.

    Args:
        graphs: (features `[n, F]`, edges `[e, 2]`) for each graph.
        name: name for messages.
        undirected: each edge is given once, in either direction, and stored in both directions. False stores edges as given,
            (from, to).

    Raises:
        DataError: an edge ends at no node, joins a node to itself or is given twice; features are not finite or differ in
            width; there is no graph, or a graph has no nodes.
    """
    if not len(graphs):
        raise DataError(f"{name}: there are no graphs; give at least one")
    for i, graph in enumerate(graphs):
        if not isinstance(graph, tuple | list) or len(graph) != 2:
            raise DataError(
                f"{name}, graph {i}: give a pair, (features [n, F], edges [e, 2]), got {type(graph).__name__}"
            )
    checked = [_check_graph(f"{name}, graph {i}", *graph, undirected=undirected) for i, graph in enumerate(graphs)]
    width = checked[0][0].shape[1]
    for i, (nodes, _) in enumerate(checked):
        if nodes.shape[1] != width:
            raise DataError(f"{name}: graph {i} has {nodes.shape[1]} features for each node, graph 0 has {width}")
    features = np.concatenate([plain_numbers(f"{name}: features", nodes) for nodes, _ in graphs])
    note_coarse(f"{name}: features, which are not scaled,", features, features.astype(np.float32))
    N = max(len(nodes) for nodes, _ in checked)
    E = max(1, max(len(edges) for _, edges in checked))
    arrays = {
        "inputs": np.zeros((len(checked), N, width), np.float32),
        "edges": np.zeros((len(checked), E, 2), np.int32),
        "node_mask": np.zeros((len(checked), N), bool),
        "edge_mask": np.zeros((len(checked), E), bool),
    }
    for i, (nodes, edges) in enumerate(checked):
        arrays["inputs"][i, : len(nodes)] = nodes
        arrays["edges"][i, : len(edges)] = edges
        arrays["node_mask"][i, : len(nodes)] = True
        arrays["edge_mask"][i, : len(edges)] = True
    return arrays


def from_graphs(
    graphs: Sequence[tuple[Any, Any]],
    targets: Any,
    *,
    holdout: float = 0.2,
    seed: int = 0,
    name: str = "graphs",
    class_names: Sequence[str] | None = None,
    undirected: bool = True,
    augment: Any = None,
) -> Dataset:
    """A data set of graphs with one target each, for `GraphClassification`.

    Args:
        graphs: (features `[n, F]`, edges `[e, 2]`) for each graph; see `pad_graphs`. Features are not scaled.
        targets: one for each graph, as in `from_arrays`.
        holdout: share of the graphs in the test split, in (0, 1).
        seed: seed of the shuffle before the split.
        name: name for messages and the report.
        class_names: names of classes 0, 1, ...; by default the distinct labels.
        undirected: see `pad_graphs`.
        augment: random changes to the training graphs, as in `from_arrays`: a `GraphAugment`, for example.

    Raises:
        DataError: see `pad_graphs` and `from_arrays`.
    """
    arrays = pad_graphs(graphs, name=name, undirected=undirected)
    # `from_arrays` splits and encodes a table whose only column is the graph number.
    numbers = np.arange(len(graphs), dtype=np.int32)[:, None]
    table = from_arrays(
        numbers, targets, holdout=holdout, seed=seed, name=name, standardize=False, class_names=class_names
    )
    parts = []
    for split in (table.train, table.test):
        rows = split["inputs"][:, 0]
        parts.append({key: array[rows] for key, array in arrays.items()} | {"targets": split["targets"]})
    return Dataset(
        name=name,
        train=parts[0],
        test=parts[1],
        class_names=table.class_names,
        target_kind=table.target_kind,
        target_name="class",
        augment=as_augment(augment),
    )


def from_graph(
    nodes: Any,
    edges: Any,
    labels: Any,
    *,
    train: Any,
    test: Any,
    validation: Any = None,
    name: str = "graph",
    class_names: Sequence[str] | None = None,
    undirected: bool = True,
    augment: Any = None,
) -> Dataset:
    """One graph whose nodes have labels, for `NodeClassification`; a data set of one example, so `batch_size` is 1.

    Args:
        nodes: features `[N, F]`, not scaled.
        edges: `[E, 2]` node numbers; see `pad_graphs`.
        labels: `[N]` integers or text. Only the labels of `train` and `test` are read; other nodes may have any value (-1,
            "?", None, NaN).
        train: numbers of the nodes with training labels.
        test: numbers of the nodes with test labels.
        validation: numbers of the nodes with validation labels, if any.
        name: name for messages and the report.
        class_names: names of classes 0, 1, ...; by default the distinct labels.
        undirected: see `pad_graphs`.
        augment: random changes to the training graphs, as in `from_arrays`: a `GraphAugment`, for example.

    Raises:
        DataError: see `pad_graphs`; a node number is out of range, or in both `train` and `test`.
    """
    arrays = pad_graphs([(nodes, edges)], name=name, undirected=undirected)
    count = arrays["inputs"].shape[1]
    given = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
    rows = {split: _check_numbers(name, split, numbers, count) for split, numbers in given.items()}
    for first, second in itertools.combinations(rows, 2):
        both = np.intersect1d(rows[first], rows[second])
        if both.size:
            raise DataError(
                f"{name}: {both.size} nodes are in {first} and in {second}, the first is node {both[0]}; a test on training "
                f"labels measures nothing, so remove them from one"
            )
    held = np.concatenate([numbers for split, numbers in rows.items() if split != "train"])
    targets, names = _node_labels(name, labels, count, rows["train"], held, class_names)
    counted = {split: np.isin(np.arange(count), nodes)[None] for split, nodes in rows.items()}
    # The labels of validation nodes are in that split alone.
    arrays["targets"] = np.where(counted["train"] | counted["test"], targets, 0).astype(targets.dtype)
    chosen_by = counted.get("validation")
    return Dataset(
        name=name,
        train={**arrays, "counted": counted["train"]},
        test={**arrays, "counted": counted["test"]},
        validation=None if chosen_by is None else {**arrays, "counted": chosen_by, "targets": targets[None]},
        class_names=names,
        target_name="class",
        augment=as_augment(augment),
    )


def _node_labels(
    name: str, labels: Any, count: int, train: np.ndarray, test: np.ndarray, class_names: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers `[N]` int32 (0 for nodes in neither split) and class names."""
    given = np.asarray(labels, dtype=object if isinstance(labels, list | tuple) else None)
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if given.shape != (count,):
        raise DataError(
            f"{name}: labels have shape {given.shape} for {count} nodes; give one for each node, -1 for none"
        )
    # The labels of other nodes are not read: they may be any marker of a missing label.
    used = np.concatenate([train, test])
    known = plain_array(f"{name}: the labels of train and test", given[used])
    others = np.delete(given, used)
    if known.dtype.kind == "f" and any(is_missing(v) for v in others.ravel()) and (known == np.rint(known)).all():
        known = known.astype(np.int64)  # integers, which a NaN among them had turned into floats
    if known.dtype.kind == "f":
        raise DataError(f"{name}: the labels of nodes are real numbers; give class labels: integers or text")
    found = encode_targets(name, known, known, class_names, kind="class")
    targets = np.zeros(count, np.int32)
    targets[used] = found.train
    return targets, found.names


def _check_graph(name: str, nodes: Any, edges: Any, *, undirected: bool) -> tuple[np.ndarray, np.ndarray]:
    """Features `[n, F]` float32 and directed edges `[e, 2]` int32 of one graph."""
    nodes, edges = plain_numbers(f"{name}: features", nodes), plain_numbers(f"{name}: edges", edges)
    if nodes.ndim != 2 or not len(nodes):
        raise DataError(f"{name}: nodes have shape {nodes.shape}; give features [nodes, features] of at least one node")
    check_finite(f"{name}: features", nodes)
    with np.errstate(over="ignore"):
        nodes = nodes.astype(np.float32)
    check_finite(f"{name}: features, in 32 bits,", nodes)
    if not edges.size:
        return nodes, np.zeros((0, 2), np.int32)
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise DataError(
            f"{name}: edges have shape {edges.shape} and dtype {edges.dtype}; give pairs of node numbers, [edges, 2] "
            f"integers (a matrix [2, edges] is transposed with edges.T)"
        )
    n = len(nodes)
    dangling = ((edges < 0) | (edges >= n)).any(axis=1)
    if dangling.any():
        i = int(np.flatnonzero(dangling)[0])
        raise DataError(
            f"{name}: {int(dangling.sum())} edges end at nodes that do not exist; the first, edge {i}, joins "
            f"{edges[i, 0]} and {edges[i, 1]}, but the nodes are numbered 0 to {n - 1}. Remove such edges, or add the nodes"
        )
    loops = np.flatnonzero(edges[:, 0] == edges[:, 1])
    if loops.size:
        raise DataError(
            f"{name}: {loops.size} edges join a node to itself, the first is edge {loops[0]} at node {edges[loops[0], 0]}; "
            f"remove them: models that need self-loops add them"
        )
    edges = edges.astype(np.int32)
    keys = np.sort(edges, axis=1) if undirected else edges
    _, first = np.unique(keys, axis=0, return_index=True)
    if len(first) < len(edges):
        again = int(np.setdiff1d(np.arange(len(edges)), first)[0])
        raise DataError(
            f"{name}: {len(edges) - len(first)} edges are given more than once, the first is edge {again} "
            f"({edges[again, 0]}, {edges[again, 1]}); give each edge once"
            + (", in one direction, or set undirected=False" if undirected else "")
        )
    return nodes, np.concatenate([edges, edges[:, ::-1]]) if undirected else edges


def _check_numbers(name: str, split: str, rows: Any, count: int) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not rows.size:
        raise DataError(
            f"{name}: {split} has shape {rows.shape} and dtype {rows.dtype}; give the numbers of at least one node "
            f"(np.flatnonzero turns a mask into numbers)"
        )
    outside = rows[(rows < 0) | (rows >= count)]
    if outside.size:
        raise DataError(f"{name}: {split} names node {outside[0]}, but the nodes are numbered 0 to {count - 1}")
    return rows
