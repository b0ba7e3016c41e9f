"""New examples for a trained model: read from a file, and checked against its training data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.core.download import read_array, read_arrays
from jaxnets.core.errors import DataError, note
from jaxnets.data.flavours import plain_numbers
from jaxnets.data.preparation import Arrays, Form, Preparation
from jaxnets.data.prepare import Standardize, TokenIds
from jaxnets.data.read_arrays import feature_names
from jaxnets.data.several import by_array
from jaxnets.data.tabular.csv_text import is_table
from jaxnets.data.targets import check_finite, encode_targets
from jaxnets.data.text.vocabulary import encode_texts, read_lines


def read_given(path: Path, preparation: Preparation) -> Arrays:
    """The arrays of new examples, without targets.

    An `.npz` holds arrays with the names of `Dataset.test` (at least `inputs`); an `.npy` holds the inputs. A model trained on
    a table also takes a `.csv` with the same column names, in any order. A model trained on texts also takes a `.txt` with
    one text per line.

    Raises:
        DataError: the file is missing, damaged or of another kind, or lacks an array or column.
    """
    if path.suffix == ".npz":
        found = read_arrays(path)
        if preparation.several:
            names = {name for one in preparation.several for name in (one.argument, one.array)}
            return _of_several({name: array for name, array in found.items() if name in names}, preparation)
        if "inputs" not in found:
            raise DataError(f"{path} has no array 'inputs'; it holds {', '.join(found) or 'nothing'}")
        return {name: array for name, array in found.items() if name in preparation.names}
    if path.suffix == ".npy":
        return {"inputs": read_array(path)}
    if preparation.columns is not None and is_table(path):
        return {"inputs": preparation.columns.read(path)}
    if path.suffix == ".txt" and preparation.tokens is not None:
        lines, width = read_lines(path), preparation.form("inputs").shape[0]
        return {"inputs": encode_texts(lines, preparation.tokens, width, where=f"{path}, line {{}}", first=1)}
    kinds = [".npz", ".npy"]
    kinds += [".csv"] if preparation.columns is not None else []
    kinds += [".txt with one text per line"] if preparation.tokens is not None else []
    raise DataError(f"{path} is not a file of new examples for {preparation.name!r}; give {' or '.join(kinds)}")


def check_given(given: Any, preparation: Preparation, longest: int | None) -> Arrays:
    """New examples as input arrays for the model, padded as in training.

    Args:
        given: raw inputs `[N, ...]` as in training; a dict of arrays as in `Dataset.test`; the rows of a table as a DataFrame
            or a dict of columns, in any order; texts, if the model takes texts; or the `Path` of a file (see `read_given`).
        preparation: the statistics and formats of the training data.
        longest: the most tokens that the model reads; None: no limit.

    Raises:
        DataError: shapes or dtypes do not match training, a value is NaN, a token is outside the vocabulary, or an edge ends
            at no node.
    """
    named = _named(given, preparation)
    if "inputs" not in named:
        raise DataError(f"predict needs the array 'inputs'; the dict holds {', '.join(map(str, named)) or 'nothing'}")
    arrays = {name: plain_numbers(name, named[name]) for name in preparation.names if name in named}
    count = len(arrays["inputs"]) if arrays["inputs"].ndim else 0
    graphs = {} if preparation.several else _graph_sizes(arrays, preparation.form("inputs").shape[-1])
    for name, array in arrays.items():
        form = preparation.form(name)
        expected = graphs.get(name, form.shape)
        if preparation.tokens and name == "inputs" and array.ndim == 2 and array.shape[1]:
            if longest is not None and array.shape[1] > longest:
                raise DataError(f"inputs of {array.shape[1]} tokens do not fit the model's length {longest}; cut them")
            # Pad to the training length; longer inputs are fine within the model's limit.
            array = np.pad(array, ((0, 0), (0, max(0, expected[0] - array.shape[1]))))
            expected = array.shape[1:]
        if array.shape[1:] != expected or not array.ndim or len(array) != count:
            raise DataError(
                f"predict takes {name} of shape [N, {', '.join(map(str, expected))}], as in training; got {array.shape}. "
                f"For a single example, add a dim: x[None]"
            )
        if not count:
            raise DataError(f"predict needs at least one example, got {name} of shape {array.shape}")
        check_finite(name, array)
        arrays[name] = _as_trained(name, array, form, preparation)
    preparation.check_named("given", arrays)
    if graphs:
        check_graphs(arrays)
    if preparation.columns is None and isinstance(preparation.prepare, Standardize):
        _note_outside(arrays["inputs"], preparation)
    return arrays


def check_given_targets(given: Any, preparation: Preparation, count: int) -> np.ndarray:
    """Targets of new examples `[N, ...]`, encoded as those of training: classes by name or number, labels, real numbers.

    Raises:
        DataError: there are not `count` of them, or they are of another kind or shape than in training.
    """
    kind: Any = preparation.card.target_kind
    names = preparation.class_names
    if kind in ("class", "distribution", "labels", "number"):
        targets = encode_targets("the given data", given, given, names or None, kind).test
    else:
        targets = plain_numbers("the given targets", given)
    shape = preparation.form("targets").shape
    if targets.shape[1:] != shape or len(targets) != count:
        wanted = ", ".join(map(str, (count, *shape)))
        raise DataError(f"the given targets have shape {targets.shape}, expected [{wanted}], one for each example")
    return targets


def _graph_sizes(arrays: Arrays, features: int) -> dict[str, tuple[int, ...]]:
    """Expected shapes if the examples are graphs, with any number of nodes and edges; else {}."""
    if "edges" not in arrays or arrays["inputs"].ndim != 3 or arrays["edges"].ndim != 3:
        return {}
    nodes, edges = arrays["inputs"].shape[1], arrays["edges"].shape[1]
    return {
        "inputs": (nodes, features), "edges": (edges, 2), "node_mask": (nodes,), "edge_mask": (edges,), "counted": (nodes,),
    }  # fmt: skip


def _named(given: Any, preparation: Preparation) -> Mapping[str, Any]:
    """New examples in any accepted form, as a dict of arrays."""
    if isinstance(given, Path):
        return read_given(given, preparation)
    if preparation.several:
        return _of_several(given, preparation)
    if preparation.tokens is not None and _are_texts(given):
        texts = [given] if isinstance(given, str) else np.asarray(given).ravel().tolist()
        return {"inputs": encode_texts(texts, preparation.tokens, preparation.form("inputs").shape[0])}
    names = feature_names(given)
    if preparation.columns is not None and (names or (isinstance(given, Mapping) and "inputs" not in given)):
        table = {str(name): given[name] for name in (given.columns if names else given)}
        return {"inputs": preparation.columns.encode("the given table", table)}
    rows = isinstance(given, list) and bool(given) and all(isinstance(row, Mapping) for row in given)
    if preparation.columns is not None and (rows or getattr(getattr(given, "dtype", None), "names", None)):
        return {"inputs": preparation.columns.encode("the given table", given)}
    if isinstance(given, Mapping):
        return given
    if names and preparation.feature_names and names != preparation.feature_names:
        given = _in_order(given, names, preparation.feature_names)
    return {"inputs": given}


def _of_several(given: Any, preparation: Preparation) -> Arrays:
    """The inputs of a model that takes several, by array."""
    return by_array(given, [(one.argument, one.array) for one in preparation.several])


def _are_texts(given: Any) -> bool:
    """Whether this is a string or a sequence of strings."""
    if isinstance(given, str):
        return True
    values = given if isinstance(given, list | tuple | np.ndarray) else ()
    return bool(len(values)) and all(isinstance(value, str) for value in values)


def _in_order(frame: Any, names: tuple[str, ...], wanted: tuple[str, ...]) -> Any:
    """The columns of a DataFrame in the order of training."""
    missing = [name for name in wanted if name not in names]
    if missing or len(names) != len(set(names)):
        raise DataError(
            f"the model was trained with the columns {', '.join(wanted[:8])}, and the given frame has {', '.join(names[:8])}; "
            f"give each of them once"
        )
    note(f"the columns of the given frame were put in the order of training: {', '.join(wanted[:8])}")
    return np.asarray(frame)[:, [names.index(name) for name in wanted]]


def _as_trained(name: str, array: np.ndarray, form: Form, preparation: Preparation) -> np.ndarray:
    """Cast to the training dtype if that is exact, so that equal numbers give bit-identical predictions.

    Raises:
        DataError: fractions, where training had integers.
    """
    trained = np.dtype(form.dtype)
    if array.dtype == trained:
        return array
    fractions = array.dtype.kind == "f" and trained.kind in "iu" and bool((array != np.rint(array)).any())
    if fractions or (array.dtype.kind == "f" and isinstance(preparation.prepare_of(name), TokenIds)):
        low, high = (f"{bound[0]:g}" if bound else "?" for bound in (preparation.lowest, preparation.highest))
        seen = f" from {low} to {high}" if name == "inputs" else ""
        raise DataError(
            f"{name} were {trained} in training, whole numbers{seen}, and are {array.dtype} here, from {array.min():g} to "
            f"{array.max():g}; give the raw numbers, neither scaled nor prepared"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(trained)
    if (cast == array).all():
        return cast
    # The training dtype cannot hold these numbers: they are scaled in float64.
    return array if array.dtype.itemsize > 2 else array.astype(np.float32)


def _note_outside(inputs: np.ndarray, preparation: Preparation) -> None:
    """Write a note if values lie outside the training range by more than the width of that range."""
    low, high = np.array(preparation.lowest), np.array(preparation.highest)
    if not low.size:
        return
    dims = tuple(range(1, inputs.ndim - (low.size > 1)))
    least, most = (bound(axis=dims).reshape(len(inputs), -1).astype(np.float64) for bound in (inputs.min, inputs.max))
    outside = (least < low - (high - low)) | (most > high + (high - low))
    if outside.any():
        feature = int(outside.any(axis=0).argmax())
        name = preparation.feature_names[feature] if preparation.feature_names else f"number {feature}"
        which = f"feature {name} goes" if low.size > 1 else "they go"
        note(
            f"{int(outside.any(axis=1).sum())} of {len(inputs)} examples hold values far outside the training range: {which} "
            f"from {least[:, feature].min():g} to {most[:, feature].max():g} here, in training from {low[feature]:g} to "
            f"{high[feature]:g}"
        )


def check_graphs(arrays: Arrays) -> None:
    """Raise `DataError` for an edge to a missing node or a graph without nodes; `pad_graphs` never makes these."""
    edges, real = arrays["edges"], arrays.get("edge_mask", np.ones(arrays["edges"].shape[:2], bool)).astype(bool)
    nodes = arrays.get("node_mask", np.ones(arrays["inputs"].shape[:2], bool)).astype(bool)
    outside = (edges < 0) | (edges >= nodes.shape[1])
    number = np.arange(len(edges))[:, None, None]
    dangling = (outside | ~nodes[number, np.where(outside, 0, edges)]).any(axis=-1) & real
    if dangling.any():
        graph, edge = (int(i) for i in np.argwhere(dangling)[0])
        raise DataError(
            f"{int(dangling.sum())} edges end at nodes that do not exist; the first, edge {edge} of graph {graph}, "
            f"joins {edges[graph, edge, 0]} and {edges[graph, edge, 1]}, and the graph has {int(nodes[graph].sum())} nodes; "
            f"make the arrays with pad_graphs"
        )
    if not nodes.any(axis=1).all():
        empty = int(np.flatnonzero(~nodes.any(axis=1))[0])
        raise DataError(f"graph {empty} has no nodes (node_mask); make the arrays with pad_graphs")
