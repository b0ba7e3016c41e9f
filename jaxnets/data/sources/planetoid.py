"""Cora from the files of Planetoid (Yang et al. 2016). They are pickles; they are parsed here as data and never unpickled.

A pickle is a program for a small stack machine, and unpickling calls the functions that it names. `decode` walks through the
program and records each call instead of making it. The arrays of NumPy and the sparse matrices of SciPy are then built from
the bytes in these records. The digest of each file is checked first.
"""

import dataclasses
import pickletools
from typing import Any

import numpy as np

from jaxnets.core.download import Remote, obtain
from jaxnets.core.errors import DataError

RELATIVE = "graphs/cora.npz"
URL = "https://raw.githubusercontent.com/kimiyoung/planetoid/af6abf468a772cc055bec88c52e4d6f51b7c37e3/data/ind.cora."
_DIGESTS = {
    "x": "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab",
    "tx": "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
    "allx": "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
    "y": "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
    "ty": "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
    "ally": "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
    "graph": "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
    "test.index": "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
}
KEYS = ("edges", "num_nodes", "num_features", "feat_row", "feat_col", "feat_val", "labels")
SPLITS = ("train_idx", "val_idx", "test_idx")


def cora_arrays() -> dict[str, np.ndarray]:
    """`edges` `[5278, 2]` (each once), sparse features as `feat_row`, `feat_col` and `feat_val`, `labels` `[2708]`, and the
    node numbers of the splits, `train_idx`, `val_idx` and `test_idx`."""
    remotes = tuple(Remote(f"{URL}{name}", digest) for name, digest in _DIGESTS.items())
    arrays = obtain(RELATIVE, remotes, assemble_cora)
    missing = [key for key in (*KEYS, *SPLITS) if key not in arrays]
    if missing:
        raise DataError(
            f"{RELATIVE} has no array {missing[0]!r}, it holds {', '.join(arrays)}; delete it to download it again"
        )
    return arrays


def assemble_cora(files: list[bytes]) -> dict[str, np.ndarray]:
    """The arrays of `cora_arrays` from the eight files, in the order of `_DIGESTS`."""
    x, tx, allx, y, ty, ally, graph, index = files
    order = np.array(index.split(), np.int64)
    # The last 1,000 nodes are stored in the order of test.index, which is not sorted.
    numbers = np.concatenate([np.arange(order.min()), order])
    (rows, columns, values), (test_rows, test_columns, test_values) = _sparse(decode(allx)), _sparse(decode(tx))
    rows = numbers[np.concatenate([rows, test_rows + order.min()])]
    columns, values = np.concatenate([columns, test_columns]), np.concatenate([values, test_values])
    sort = np.lexsort((columns, rows))
    labels = np.zeros(len(numbers), np.int8)
    labels[numbers] = np.concatenate([_dense(decode(part)).argmax(axis=1) for part in (ally, ty)])
    known = len(_dense(decode(y)))
    links = decode(graph).items
    pairs = {tuple(sorted((a, b))) for a, others in links.items() for b in others if a != b}
    return {
        "edges": np.array(sorted(pairs), np.int32),
        "num_nodes": np.array(len(numbers), np.int32),
        "num_features": np.array(_shape(decode(x))[1], np.int32),
        "feat_row": rows[sort].astype(np.int32),
        "feat_col": columns[sort].astype(np.int32),
        "feat_val": values[sort].astype(np.float32),
        "labels": labels,
        "train_idx": np.arange(known, dtype=np.int32),
        "val_idx": np.arange(known, known + 500, dtype=np.int32),
        "test_idx": np.sort(order).astype(np.int32),
    }


@dataclasses.dataclass
class Record:
    """A call that a pickle would make: the callable's name, its arguments, and the state and items set on the result."""

    what: Any
    arguments: Any = ()
    state: Any = None
    items: dict[Any, Any] = dataclasses.field(default_factory=dict)


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = ("BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING")


def decode(content: bytes) -> Any:
    """The value of a pickle of protocol 2, with a `Record` for each object; raises `DataError` for other content."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        start = max(i for i, item in enumerate(stack) if item is _MARK)
        items = stack[start + 1 :]
        del stack[start:]
        return items

    try:
        for code, argument, _ in pickletools.genops(content):
            name = code.name
            if name in _VALUES:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name == "GLOBAL":
                stack.append(argument)
            elif name == "MARK":
                stack.append(_MARK)
            elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
                stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[name]())
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            elif name == "TUPLE":
                stack.append(tuple(since_mark()))
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name in ("REDUCE", "NEWOBJ"):
                arguments = stack.pop()
                stack[-1] = Record(stack[-1], arguments)
            elif name == "BUILD":
                state = stack.pop()
                stack[-1].state = state
            elif name == "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            elif name == "APPENDS":
                items = since_mark()
                stack[-1].extend(items)
            elif name == "SETITEMS":
                items = since_mark()
                target = stack[-1] if isinstance(stack[-1], dict) else stack[-1].items
                target.update(zip(items[::2], items[1::2], strict=True))
            elif name == "STOP":
                return stack[-1]
            elif name != "PROTO":
                raise DataError(f"a file of Planetoid holds the operation {name}, which no published file has")
    except (ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"a file of Planetoid is damaged ({type(error).__name__}: {error})") from error
    raise DataError("a file of Planetoid ends in the middle; it is damaged")


def _dense(record: Any) -> np.ndarray:
    """The NumPy array that a record describes."""
    if not isinstance(record, Record) or record.what != "numpy.core.multiarray _reconstruct":
        raise DataError(f"a file of Planetoid holds {type(record).__name__} where an array is expected; it is damaged")
    _, shape, kind, by_columns, content = record.state
    dtype = np.dtype(kind.arguments[0]).newbyteorder("<")
    if dtype.hasobject or not isinstance(content, str):
        raise DataError(f"a file of Planetoid holds an array of {dtype}; numbers are expected")
    # Python 2 strings are bytes, which pickletools decodes as latin-1.
    array = np.frombuffer(content.encode("latin-1"), dtype)
    return array.reshape(shape, order="F" if by_columns else "C")


def _shape(record: Any) -> tuple[int, int]:
    return record.state["_shape"]


def _sparse(record: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and values of a SciPy CSR matrix."""
    starts, columns, values = (_dense(record.state[key]) for key in ("indptr", "indices", "data"))
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return rows, columns.astype(np.int64), values
