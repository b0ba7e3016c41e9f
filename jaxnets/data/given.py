"""New examples for a trained model: read from a file, and held against the data that it was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.data.csv_text import is_table
from jaxnets.data.dataset import Arrays, Dataset, TokenIds, check_finite
from jaxnets.data.download import read_array, read_arrays
from jaxnets.data.vocabulary import encode_text, read_lines
from jaxnets.errors import DataError


def read_given(path: Path, dataset: Dataset) -> Arrays:
    """The arrays of new examples, without targets.

    An `.npz` has them under the names that `Dataset.test` has (`inputs` at least); an `.npy` has the inputs alone. Where the
    model was trained on a table, a `.csv` has the same columns under the same header, in any order; where it was trained on
    lines of text, a `.txt` has one to a line.

    Raises:
        DataError: a file that is missing, damaged or of another kind, or that lacks something.
    """
    if path.suffix == ".npz":
        found = read_arrays(path)
        if "inputs" not in found:
            raise DataError(f"{path} has no array 'inputs'; it holds {', '.join(found) or 'nothing'}")
        return {name: array for name, array in found.items() if name in dataset.train and name != "targets"}
    if path.suffix == ".npy":
        return {"inputs": read_array(path)}
    if dataset.columns is not None and is_table(path):
        return {"inputs": dataset.columns.read(path)}
    if path.suffix == ".txt" and dataset.tokens is not None:
        if not path.is_file():
            raise DataError(f"there is no file {path}; check the path")
        rows = []
        for number, line in enumerate(read_lines(path), start=1):
            try:
                rows.append(encode_text(line, dataset.tokens)[0])
            except DataError as error:
                raise DataError(f"{path}, line {number}: {error}") from error
        width = max(len(row) for row in rows)
        return {"inputs": np.stack([np.pad(row, (0, width - len(row))) for row in rows])}
    kinds = [".npz", ".npy"]
    kinds += [".csv"] if dataset.columns is not None else []
    kinds += [".txt with one text to a line"] if dataset.tokens is not None else []
    raise DataError(f"{path} is no file of new examples for {dataset.name!r}; give {' or '.join(kinds)}")


def check_given(given: Any, dataset: Dataset, longest: int | None) -> Arrays:
    """New examples as arrays that the model can be asked about, padded as in training.

    Args:
        given: raw inputs `[N, ...]`, or a dict of arrays as in `Dataset.test`.
        dataset: what the model was trained on.
        longest: most tokens that the model reads; None: any number.

    Raises:
        DataError: other shapes or kinds of number than in training, NaN, tokens without a name, edges without an end.
    """
    named = given if isinstance(given, Mapping) else {"inputs": given}
    if "inputs" not in named:
        raise DataError(f"predict needs the array 'inputs'; the dict holds {', '.join(map(str, named)) or 'nothing'}")
    arrays = {name: _as_array(name, named[name]) for name in dataset.train if name in named and name != "targets"}
    count = len(arrays["inputs"]) if arrays["inputs"].ndim else 0
    for name, array in arrays.items():
        expected = dataset.train[name].shape[1:]
        if dataset.tokens and name == "inputs" and array.ndim == 2 and array.shape[1]:
            if longest is not None and array.shape[1] > longest:
                raise DataError(f"inputs of {array.shape[1]} tokens do not fit the model's length {longest}; cut them")
            # Filled up as in training; longer where the model has room.
            array = np.pad(array, ((0, 0), (0, max(0, expected[0] - array.shape[1]))))
            arrays[name], expected = array, array.shape[1:]
        if array.shape[1:] != expected or not array.ndim or len(array) != count:
            raise DataError(
                f"predict takes {name} of shape [N, {', '.join(map(str, expected))}], as in training; got {array.shape}. "
                f"For a single example, add a dim: x[None]"
            )
        if not count:
            raise DataError(f"predict needs at least one example, got {name} of shape {array.shape}")
        _check_numbers(name, array, dataset)
    dataset.check_named("given", arrays)
    if "edges" in arrays:
        _check_graphs(arrays)
    return arrays


def _as_array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(f"{name} make no array ({error}); give rows of one length") from error


def _check_numbers(name: str, array: np.ndarray, dataset: Dataset) -> None:
    check_finite(name, array)
    trained = dataset.train[name].dtype
    if array.dtype.kind != "f" or trained.kind not in "iu":
        return
    if isinstance(dataset.prepare, TokenIds) or (array != np.rint(array)).any():
        raise DataError(
            f"{name} were {trained} in training, whole numbers from {dataset.train[name].min()} to "
            f"{dataset.train[name].max()}, and are {array.dtype} here, from {array.min():g} to {array.max():g}; give them as "
            f"they were, neither scaled nor prepared"
        )


def _check_graphs(arrays: Arrays) -> None:
    """Raise `DataError` for an edge without an end or a graph without nodes, which `pad_graphs` never gives."""
    edges, real = arrays["edges"], arrays.get("edge_mask", np.ones(arrays["edges"].shape[:2], bool)).astype(bool)
    nodes = arrays.get("node_mask", np.ones(arrays["inputs"].shape[:2], bool)).astype(bool)
    outside = (edges < 0) | (edges >= nodes.shape[1])
    number = np.arange(len(edges))[:, None, None]
    dangling = (outside | ~nodes[number, np.where(outside, 0, edges)]).any(axis=-1) & real
    if dangling.any():
        graph, edge = (int(i) for i in np.argwhere(dangling)[0])
        raise DataError(
            f"{int(dangling.sum())} edges end at nodes that are not there; the first, edge {edge} of graph {graph}, "
            f"joins {edges[graph, edge, 0]} and {edges[graph, edge, 1]}, and the graph has {int(nodes[graph].sum())} nodes; "
            f"make the arrays with pad_graphs"
        )
    if not nodes.any(axis=1).all():
        empty = int(np.flatnonzero(~nodes.any(axis=1))[0])
        raise DataError(f"graph {empty} has no nodes (node_mask); make the arrays with pad_graphs")
