"""Windows of a long file of token ids, cut when their batch comes."""

import dataclasses
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.core.scaling import extremes
from jaxnets.data.large import LazyArray, Moment, about_map

# Windows that are checked before training.
SAMPLE = 256


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
        found = self.ids[starts[:, None] + np.arange(self.length + 1)]
        if found.size and not 0 <= found.min() <= found.max() < self.size:
            row, place = (int(i) for i in np.argwhere((found < 0) | (found >= self.size))[0])
            raise DataError(
                f"{self.what} has token {found[row, place]} at {starts[row] + place}, outside of a vocabulary of "
                f"{self.size} (0 to {self.size - 1}); name the tokenizer that made the tokens in data.tokens"
            )
        found = found.astype(self.dtype, copy=False)
        return {"inputs": found[:, :-1], "targets": found[:, 1:]}

    def identity(self) -> str:
        """Number of tokens, the file's size and time, and how it is cut."""
        return repr((self.ids.shape, self.ids.dtype.str, self.about, self.length, self.stride, self.size))


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
    reader = Windows(np.asarray(ids), about_map(ids), what, length, stride, size, np.dtype(dtype))
    rows = np.array(len(reader))
    # A few windows: each is somewhere else on the disk, and what is read later is checked then.
    sample = reader.read(np.unique(np.linspace(0, len(reader) - 1, SAMPLE).astype(np.int64)))
    return {name: LazyArray(reader, name, (length,), reader.dtype, rows, extremes(sample[name])) for name in sample}
