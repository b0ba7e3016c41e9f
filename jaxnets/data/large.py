"""Arrays that are read row by row: memory-mapped files, arrays of h5py and zarr, data with more rows than fit into memory.

A split of a `Dataset` is a dict of arrays. A large one is a `LazyArray`: row numbers, and a reader that fetches rows when they
are indexed. `gather` reads every batch, from arrays in memory and from lazy ones.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.core.scaling import blocks, extremes, mean_and_deviation
from jaxnets.data.flavours import plain_numbers

# A memory-mapped array of fewer bytes is read into memory, as any other array.
LARGE_BYTES = 1 << 26
# Up to so many bytes, all numbers of a mapped array are checked at the start; of a larger one, those of the sample.
CHECKED_BYTES = 1 << 31
# The sample: at most so many rows, and (from 100 rows on) at most so many bytes.
SAMPLE_ROWS = 10_000
SAMPLE_BYTES = 1 << 25
# Rows that the fingerprint covers.
FINGERPRINT_ROWS = 64

Arrays = dict[str, Any]
# The seed of a run and the step of each row, from which a reader's random changes are drawn.
Moment = tuple[int, np.ndarray]


class Reader(Protocol):
    """Reads rows of one or several arrays that belong together."""

    quick: bool
    """Whether reading everything once costs little more than the time of the disk."""

    def read(self, rows: np.ndarray, moment: Moment | None = None) -> dict[str, np.ndarray]:
        """The arrays of some rows, in their order; `moment` is given in training only."""

    def identity(self) -> str:
        """Identifies the data without reading them: shape, dtype, size and time of the file."""


@dataclasses.dataclass(frozen=True, eq=False)
class LazyArray:
    """An array `[N, ...]` whose rows are read when they are indexed: `a[3]`, `a[10:20]` and `a[rows]` are NumPy arrays."""

    reader: Reader
    """The reader of the rows."""
    name: str
    """The reader's name for this array."""
    form: tuple[int, ...]
    """Shape of one row."""
    dtype: np.dtype
    """Of the numbers that are read."""
    rows: np.ndarray
    """Row numbers in the reader, `[N]`; or one number `[]`, for rows 0 to N - 1."""
    known: tuple[np.ndarray, np.ndarray] | None = None
    """Smallest and largest number of each feature (the last dim), if they are known."""
    scale: tuple[np.ndarray, np.ndarray] | None = None
    """Mean and deviation likewise."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, ...)`."""
        return len(self), *self.form

    @property
    def ndim(self) -> int:
        """The number of dims."""
        return 1 + len(self.form)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.rows) if self.rows.ndim else int(self.rows)

    def __repr__(self) -> str:
        return f"LazyArray({self.dtype}{list(self.shape)} of {type(self.reader).__name__})"

    def numbers(self, key: Any) -> np.ndarray:
        """The reader's row numbers of some rows of this array."""
        if isinstance(key, slice) and not self.rows.ndim:
            return np.arange(*key.indices(len(self)))
        if isinstance(key, slice):
            return self.rows[key]
        key = np.asarray(key)
        key = np.flatnonzero(key) if key.dtype == bool else key
        outside = (key < -len(self)) | (key >= len(self))
        if outside.any():
            raise IndexError(f"row {np.ravel(key)[np.ravel(outside)][0]} of an array of {len(self)} rows")
        key = np.where(key < 0, key + len(self), key)
        return self.rows[key] if self.rows.ndim else key

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, tuple):
            first, rest = key[0], key[1:]
            single = isinstance(first, int | np.integer)
            return self[first][rest] if single else self[first][(slice(None), *rest)]
        if isinstance(key, int | np.integer):
            return self[[key]][0]
        return self.reader.read(self.numbers(key))[self.name]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # what is read is always new
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def select(self, rows: np.ndarray) -> "LazyArray":
        """Some rows, still unread."""
        return dataclasses.replace(self, rows=self.numbers(rows), known=None, scale=None)

    @property
    def checked(self) -> bool:
        """Whether all numbers are checked before training, not only those of the sample."""
        return self.reader.quick and self.size * self.dtype.itemsize <= CHECKED_BYTES

    def sample_rows(self) -> np.ndarray:
        """The rows from which statistics are computed; the same ones each time."""
        return sample_rows(len(self), self.form, self.dtype)

    @functools.cached_property
    def extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest number of each feature (the last dim), of all rows or of the sample."""
        if self.known is not None:
            return self.known
        seen: Any
        if not self.checked:
            seen = self[self.sample_rows()]
        else:  # in the order of the file
            seen = dataclasses.replace(self, rows=np.sort(self.rows)) if self.rows.ndim else self
        return extremes(seen if self.ndim > 1 else np.asarray(seen)[:, None])

    @functools.cached_property
    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of each feature (the last dim), from the sample."""
        if self.scale is not None:
            return self.scale
        sample = self[self.sample_rows()]
        return mean_and_deviation(sample.reshape(len(sample), -1) if self.ndim < 2 else sample)

    def min(self, axis: Any = None) -> Any:
        """The smallest number; `axis`: of each feature (it names all dims but the last)."""
        return self._bound(self.extremes[0], np.min, axis)

    def max(self, axis: Any = None) -> Any:
        """The largest number; `axis`: of each feature (it names all dims but the last)."""
        return self._bound(self.extremes[1], np.max, axis)

    def _bound(self, found: np.ndarray, bound: Any, axis: Any) -> Any:
        if axis is None:
            return bound(found)
        if np.atleast_1d(axis).tolist() != list(range(self.ndim - 1)):
            raise NotImplementedError(f"bounds of a lazy array are over all dims, or all but the last; got axis={axis}")
        return found

    def update(self, digest: Any) -> None:
        """Add the identity of the array to a digest of hashlib: that of its reader, and rows of the sample."""
        digest.update(f"{self.reader.identity()}{self.name}".encode())
        if self.rows.ndim:
            for block in blocks(self.rows):
                digest.update(np.ascontiguousarray(block, np.int64).data.cast("B"))
        rows = np.linspace(0, len(self) - 1, min(len(self), FINGERPRINT_ROWS)).astype(np.int64)
        if getattr(self.reader, "steady", True):
            digest.update(np.ascontiguousarray(self[rows]).tobytes())


def sample_rows(count: int, form: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Row numbers of the sample of an array of `count` rows, in rising order; all of them if it is small."""
    row = max(1, int(np.prod(form, dtype=np.int64)) * dtype.itemsize)
    wanted = min(SAMPLE_ROWS, max(100, SAMPLE_BYTES // row))
    if count <= wanted:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, wanted, replace=False))


def select(array: Any, rows: np.ndarray) -> Any:
    """Some rows of an array: a copy of them from memory, a view by row numbers of a lazy array."""
    return array.select(rows) if isinstance(array, LazyArray) else array[rows]


def gather(arrays: Mapping[str, Any], rows: np.ndarray, moment: Moment | None = None) -> dict[str, np.ndarray]:
    """Rows `[R]` of all arrays of a split, read now. Arrays with one reader are read together."""
    made: dict[str, np.ndarray] = {}
    read: dict[int, tuple[np.ndarray, dict[str, np.ndarray]]] = {}
    for name, array in arrays.items():
        if not isinstance(array, LazyArray):
            made[name] = np.take(array, rows, axis=0)
            continue
        numbers, before = array.numbers(rows), read.get(id(array.reader))
        if before is None or not np.array_equal(before[0], numbers):
            before = read[id(array.reader)] = numbers, array.reader.read(numbers, moment)
        made[name] = before[1][array.name]
        if not array.checked and array.dtype.kind == "f":
            check_rows(name, made[name], numbers)
    return made


def check_rows(name: str, values: np.ndarray, numbers: np.ndarray) -> None:
    """Raise `DataError` if rows with these numbers, which were not checked before, hold a NaN or infinity."""
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if bad.any():
        raise DataError(
            f"row {numbers[bad][0]} of the data has a NaN or infinity in its {name}; remove or fill such rows"
        )


def in_memory(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All rows of a split as arrays in memory; arrays that are there already are not copied."""
    if not any(isinstance(array, LazyArray) for array in arrays.values()):
        return dict(arrays)
    return gather(arrays, np.arange(len(next(iter(arrays.values())))))


def shown(arrays: Mapping[str, Any], rows: np.ndarray) -> Arrays:
    """Some rows of a split, for a report; large lazy arrays stay unread."""
    if len(rows) == len(next(iter(arrays.values()))):
        picked = dict(arrays)
    else:
        picked = {name: select(array, rows) for name, array in arrays.items()}
    lazy = [array for array in picked.values() if isinstance(array, LazyArray)]
    return in_memory(picked) if sum(a.size * a.dtype.itemsize for a in lazy) <= LARGE_BYTES else picked


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """Reads rows of one array that a file holds: a memory map, or an array of h5py or zarr."""

    array: Any
    """`[N, ...]`, with `shape`, `dtype` and reading by slices."""
    about: str
    """Of the file: its size and time."""
    dtype: np.dtype
    """Of what is read: that of the file in the machine's byte order."""
    quick = True

    def read(self, rows: np.ndarray, moment: Moment | None = None) -> dict[str, np.ndarray]:
        """The rows under the name ""."""
        del moment
        if len(rows) and int(rows[-1]) - int(rows[0]) == len(rows) - 1 and (np.diff(rows) == 1).all():
            found = self.array[int(rows[0]) : int(rows[-1]) + 1]
        elif isinstance(self.array, np.ndarray):
            found = np.take(self.array, rows, axis=0)
        else:  # h5py takes rising row numbers only, zarr has a method for them
            different, back = np.unique(rows, return_inverse=True)
            found = getattr(self.array, "oindex", self.array)[different][back]
        return {"": np.asarray(found).astype(self.dtype, copy=False)}

    def identity(self) -> str:
        """Shape, dtype, size and time of the file."""
        return f"{self.array.shape}{self.dtype.str}{self.about}"


def is_stored(values: Any) -> bool:
    """Whether this is an array of at least `LARGE_BYTES` bytes in a file: memory-mapped, or of h5py or zarr."""
    if isinstance(values, np.memmap):
        return values.filename is not None and values.nbytes >= LARGE_BYTES
    library = type(values).__module__.split(".")[0]
    if library not in ("h5py", "zarr") or not hasattr(values, "shape") or not hasattr(values, "dtype"):
        return False
    return int(np.prod(values.shape, dtype=np.int64)) * values.dtype.itemsize >= LARGE_BYTES


def as_lazy(what: str, values: Any) -> Any:
    """A large mapped array, or one of h5py or zarr, as a `LazyArray`; anything else as it is.

    Raises:
        DataError: it has no rows, or does not hold numbers.
    """
    if not is_stored(values):
        return values
    if not len(values.shape) or not values.shape[0]:
        raise DataError(f"{what} have shape {tuple(values.shape)}; give at least one example")
    dtype = plain_numbers(what, np.asarray(values[:1])).dtype  # refuses what are no numbers
    if isinstance(values, np.memmap):
        about, values = about_map(values), np.asarray(values)
    else:
        about = _about(getattr(getattr(values, "file", None), "filename", ""))
    return LazyArray(Stored(values, about, dtype), "", tuple(values.shape[1:]), dtype, np.array(values.shape[0]))


def about_map(values: np.memmap) -> str:
    """Size and time of the file of a memory map, after a flush to the disk: otherwise its time would change later."""
    if values.mode not in ("r", "c"):
        values.flush()
    return _about(values.filename)


def _about(file: Any) -> str:
    """Size and time of a file; "" if there is none."""
    try:
        found = os.stat(file) if file else None
    except (OSError, TypeError, ValueError):
        found = None
    return "" if found is None else f"{found.st_size}:{found.st_mtime_ns}"


def check_lazy(what: str, array: LazyArray) -> None:
    """Raise `DataError` if a lazy array has a NaN or infinity among the checked numbers."""
    if array.dtype.kind != "f" or all(np.isfinite(bound).all() for bound in array.extremes):
        return
    start = 0
    for block in blocks(array):
        bad = ~np.isfinite(block)
        if bad.any():
            place = tuple(int(i) for i in np.argwhere(bad)[0])
            where = (place[0] + start, *place[1:])
            raise DataError(
                f"{what} hold NaN or infinite values, the first at index {where} ({block[place]}); remove or fill them"
            )
        start += len(block)
