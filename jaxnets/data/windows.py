"""Windows of a long file of token ids, cut when their batch is needed."""

import dataclasses
import functools
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.core.scaling import extremes
from jaxnets.data.large import LazyArray, Moment, about_map, is_stored
from jaxnets.ops.tokens import IGNORED

# Windows that are checked before training.
SAMPLE = 256
# Tokens that are searched for the ends of documents at a time.
SEARCHED = 1 << 24


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Reads windows of token ids; window `row` starts at token `row * stride`, and the last one ends at the end."""

    ids: np.ndarray
    """`[T]` whole numbers, memory-mapped."""
    about: str
    """Size and time of the file."""
    what: str
    """Name of the data, for messages."""
    length: int
    """Tokens of a window."""
    stride: int
    """Tokens from one window to the next."""
    size: int
    """Tokens in the vocabulary."""
    dtype: np.dtype
    """Integer type of what is read."""
    quick = False

    def __len__(self) -> int:
        last = len(self.ids) - self.length - 1
        whole = last // self.stride
        # If windows overlap, one more ends at the end of the text.
        return whole + 1 + (whole * self.stride != last and self.stride < self.length)

    def read(self, rows: np.ndarray, moment: Moment | None = None) -> dict[str, np.ndarray]:
        """`inputs` `[R, length]`, and `targets`: the same windows one token later."""
        del moment
        starts = np.minimum(rows.astype(np.int64) * self.stride, len(self.ids) - self.length - 1)
        found = self._checked(starts, starts[:, None] + np.arange(self.length + 1)).astype(self.dtype, copy=False)
        return {"inputs": found[:, :-1], "targets": found[:, 1:]}

    def _checked(self, starts: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The tokens at some places `[R, length + 1]`, if all are in the vocabulary."""
        found = self.ids[places]
        if found.size and not 0 <= found.min() <= found.max() < self.size:
            row, place = (int(i) for i in np.argwhere((found < 0) | (found >= self.size))[0])
            raise DataError(
                f"{self.what} has token {found[row, place]} at {starts[row] + place}, outside of a vocabulary of "
                f"{self.size} (0 to {self.size - 1}); name the tokenizer that made the tokens in data.tokens"
            )
        return found

    def identity(self) -> str:
        """Number of tokens, the file's size and time, and how it is cut."""
        return repr((self.ids.shape, self.ids.dtype.str, self.about, self.length, self.stride, self.size))


@dataclasses.dataclass(frozen=True, eq=False)
class DocumentWindows(Windows):
    """Windows that hold tokens of one document. The last of a document is filled up with its end token.

    A document ends with the end token, which belongs to it, or where the file ends. One without a second token is left out.
    """

    end: int = 0
    """The token that ends a document."""

    @functools.cached_property
    def _documents(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each document: where it starts, where it ends (its last token is before), and the number of its first window."""
        parts = range(0, len(self.ids), SEARCHED)
        ends = np.concatenate([np.flatnonzero(self.ids[at : at + SEARCHED] == self.end) + at + 1 for at in parts])
        ends = ends if len(ends) and ends[-1] == len(self.ids) else np.append(ends, len(self.ids))
        starts = np.concatenate([[0], ends[:-1]])
        kept = ends - starts > 1
        starts, ends = starts[kept], ends[kept]
        windows = 1 + np.maximum(0, -(-(ends - starts - 1 - self.length) // self.stride))
        return starts, ends, np.concatenate([[0], np.cumsum(windows)])

    def __len__(self) -> int:
        return int(self._documents[2][-1])

    def read(self, rows: np.ndarray, moment: Moment | None = None) -> dict[str, np.ndarray]:
        """`inputs` `[R, length]`, and `targets` int32: one token later, -100 after the end of the document."""
        del moment
        starts, ends, first = self._documents
        document = np.searchsorted(first, rows, "right") - 1
        at = starts[document] + (rows.astype(np.int64) - first[document]) * self.stride
        places, last = at[:, None] + np.arange(self.length + 1), ends[document][:, None]
        found = self._checked(at, np.minimum(places, last - 1))
        inside = places < last
        found = found.astype(np.int32)
        inputs = np.where(inside, found, self.end)[:, :-1].astype(self.dtype)
        return {"inputs": inputs, "targets": np.where(inside, found, IGNORED)[:, 1:]}

    def identity(self) -> str:
        """As of `Windows`, and the token that ends a document."""
        return f"{super().identity()}{self.end}"


def document_windows(ids: Any, what: str, *, end: int | None, **how: Any) -> dict[str, Any]:
    """Inputs and targets `[windows, length]` of token ids `[T]`, each window in one document; arguments as `lazy_windows`.

    Of a mapped file they are unread but for a sample, and for one search of the whole file for `end`.

    Raises:
        DataError: no document has two tokens.
    """
    assert end is not None, "only a tokenizer with an end token has documents"
    mapped = is_stored(ids)
    about = about_map(ids) if mapped else ""
    reader = DocumentWindows(np.asarray(ids), about, what, how["length"], how["stride"], how["size"], how["dtype"], end)
    if not len(reader):
        raise DataError(f"{what} has no document of two tokens; documents end with token {end}. Give a longer text")
    return _lazy(reader) if mapped else reader.read(np.arange(len(reader)))


def lazy_windows(ids: Any, what: str, *, length: int, stride: int, size: int, dtype: np.dtype) -> dict[str, Any]:
    """Inputs and targets `[windows, length]` of a mapped file of token ids, unread but for a sample.

    Args:
        ids: `[T]`, memory-mapped, with more tokens than a window needs.
        what: name of the data, for messages.
        length: tokens of a window.
        stride: tokens from one window to the next.
        size: tokens in the vocabulary.
        dtype: integer type that holds all of them.

    Raises:
        DataError: a token of the sample is outside of the vocabulary (any other raises it when it is read).
    """
    return _lazy(Windows(np.asarray(ids), about_map(ids), what, length, stride, size, np.dtype(dtype)))


def _lazy(reader: Windows) -> dict[str, Any]:
    rows = np.array(len(reader))
    # A few windows: each is somewhere else on the disk, and what is read later is checked then.
    sample = reader.read(np.unique(np.linspace(0, len(reader) - 1, SAMPLE).astype(np.int64)))
    return {
        name: LazyArray(reader, name, (reader.length,), sample[name].dtype, rows, extremes(sample[name]))
        for name in sample
    }
