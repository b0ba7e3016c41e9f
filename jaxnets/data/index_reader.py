"""Reads the examples of an object with `__len__` and `__getitem__`, in threads or processes, in the order of the rows."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError, first_line
from jaxnets.data.augment import named
from jaxnets.data.flavours import plain_array
from jaxnets.data.large import Moment
from jaxnets.data.workers import Workers

Example = dict[str, np.ndarray]
Transform = Callable[[np.random.Generator, Example], Mapping[str, Any]]
# Rows that are read twice, to check that the results are equal.
TWICE = 16


@dataclasses.dataclass(frozen=True)
class Item:
    """How an item of a source becomes an example: a dict of arrays."""

    what: str
    """Name of the data, for messages."""
    inputs: str = "inputs"
    """The name of the inputs in items that are dicts."""
    targets: str = "targets"
    """The name of the targets."""
    also: tuple[str, ...] = ()
    """Further arrays to take from an item that is a dict."""
    read: Callable[[Any], Any] | None = None
    """Applied to each item first, such as a function that opens a file."""

    def example(self, item: Any, row: int) -> Example:
        """The arrays of an item; raises `DataError`, which names the row, for anything else."""
        if self.read is not None:
            item = self.read(item)
        if isinstance(item, Mapping):
            names = {"inputs": self.inputs, "targets": self.targets, **{name: name for name in self.also}}
            for name in names.values():
                if name not in item:
                    raise DataError(
                        f"{self.what}: row {row} is a dict without {name!r}; it holds {', '.join(map(str, item))}. Name the "
                        f"inputs and targets: from_source(..., inputs='image', targets='label')"
                    )
            values = {name: item[key] for name, key in names.items()}
        elif isinstance(item, tuple | list) and len(item) == 2:
            values = {"inputs": item[0], "targets": item[1]}
        else:
            size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
            raise DataError(
                f"{self.what}: row {row} is a {type(item).__name__}{size}; give (inputs, targets) or a dict, or a function "
                f"that makes one: from_source(..., read=lambda item: (..., ...))"
            )
        return {name: self._array(name, value, row) for name, value in values.items()}

    def _array(self, name: str, value: Any, row: int) -> np.ndarray:
        if (
            type(value) in (np.ndarray, np.uint8, int, float, np.int64, np.float32)
            and np.asarray(value).dtype.kind in "biuf"
        ):
            return np.asarray(value)
        if value is None:
            raise DataError(f"{self.what}: {name} of row {row} are missing (None); leave such rows out")
        if hasattr(value, "detach"):  # a tensor of PyTorch
            value = value.detach().cpu()
        if type(value).__module__.split(".")[0] == "PIL":
            value = np.asarray(value.convert("RGB") if value.mode in ("P", "CMYK") else value)
            value = value if value.ndim == 3 else value[:, :, None]
        try:
            # As an array of one row, because the numbers of an example may be one number.
            return plain_array(f"{self.what}: {name} of row {row}", np.asarray(value)[None])[0:1].reshape(
                np.shape(value)
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{self.what}: {name} of row {row} cannot become an array ({first_line(error)}); give numbers, or a "
                f"function that makes them: from_source(..., read=...)"
            ) from error


@dataclasses.dataclass(frozen=True)
class Examples:
    """The items of a source as examples, by row number; threads and processes call it."""

    source: Any
    """It has `__len__` and `__getitem__`, and perhaps `__getitems__` for several rows at once."""
    item: Item
    """What its items mean."""

    def __call__(self, rows: Sequence[int], transform: Transform | None, seeds: Sequence[Any]) -> list[Example]:
        """The examples of some rows; with a transform, changed by it with a random generator of each seed."""
        if not hasattr(self.source, "__getitems__"):
            items = [self._tried(f"row {row}", self.source.__getitem__, row) for row in rows]
        else:
            items = list(self._tried(f"one of the rows {rows[0]} to {rows[-1]}", self.source.__getitems__, list(rows)))
            if len(items) != len(rows):
                raise DataError(
                    f"{self.item.what}: __getitems__ gave {len(items)} items for {len(rows)} rows; give one for each"
                )
        found = [self._tried(f"row {row}", self.item.example, item, row) for item, row in zip(items, rows, strict=True)]
        if transform is None:
            return found
        return [self._changed(transform, seed, example) for seed, example in zip(seeds, found, strict=True)]

    def _changed(self, transform: Transform, seed: Any, example: Example) -> Example:
        changed = transform(np.random.default_rng(seed), dict(example))
        if not isinstance(changed, Mapping) or changed.keys() != example.keys():
            raise DataError(
                f"{self.item.what}: transform(rng, example) returns a dict with {', '.join(example)}, got {changed!r:.80}"
            )
        return {name: np.asarray(value) for name, value in changed.items()}

    def _tried(self, where: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of the user's function; an exception from it becomes a `DataError` that names the row."""
        try:
            return function(*arguments)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{self.item.what}: {where} cannot be read ({type(error).__name__}: {first_line(error)})"
            ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class IndexReader:
    """Reads rows of a source. The arrays are the same for any number of threads or processes."""

    source: Any
    """It has `__len__` and `__getitem__`, and perhaps `__getitems__` for several rows at once."""
    item: Item
    """What its items mean."""
    threads: int = 4
    """Threads that read at the same time; 1 for a source that is not safe for threads."""
    workers: Workers | None = None
    """Processes that call `Examples(source, item)`, in place of threads."""
    transform: Transform | None = None
    """Random changes to an example while training; they keep shapes and dtypes."""
    forms: Mapping[str, tuple[tuple[int, ...], np.dtype]] = dataclasses.field(default_factory=dict)
    """Shape and dtype of each array of an example, targets as they are in the source."""
    encode: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    """`(targets, rows) -> targets` as a task takes them."""
    lock: Any = dataclasses.field(default_factory=threading.Lock)
    """Held while reading with one thread."""
    quick = False

    @functools.cached_property
    def _pool(self) -> concurrent.futures.ThreadPoolExecutor:
        return concurrent.futures.ThreadPoolExecutor(self.threads, thread_name_prefix="jaxnets-rows")

    def examples(self, rows: Sequence[int], seeds: Sequence[Any] = ()) -> list[Example]:
        """The examples of some rows, in their order; with a seed for each, after the random changes."""
        count, transform, read = len(rows), self.transform if len(seeds) else None, Examples(self.source, self.item)
        if count == 1 or (self.threads == 1 and self.workers is None):
            with self.lock if self.threads == 1 else contextlib.nullcontext():
                return read(rows, transform, seeds)
        parts = min(count, 4 * self.threads)  # several for each, so that a slow one holds up little
        edges = [count * i // parts for i in range(parts + 1)]
        cuts, drawn = ([of[a:b] for a, b in itertools.pairwise(edges)] for of in (rows, seeds))
        run = self._pool.map if self.workers is None else lambda _, *lists: self.workers.map(*lists)
        return [example for part in run(read, cuts, [transform] * parts, drawn) for example in part]

    def read(self, rows: np.ndarray, moment: Moment | None = None) -> dict[str, np.ndarray]:
        """The arrays of some rows, stacked; with a moment, after the random changes of that seed and those steps."""
        if self.transform is None or moment is None:
            different, back = np.unique(rows, return_inverse=True)
            found = self.examples(different.tolist())
            return {name: array[back] for name, array in self.stacked(found, different).items()}
        seed, steps = moment
        seeds = [(seed, step, row) for step, row in zip(steps.tolist(), rows.tolist(), strict=True)]
        return self.stacked(self.examples(rows.tolist(), seeds), rows)

    def stacked(self, found: list[Example], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Examples as arrays with a leading dim, targets encoded; raises `DataError` for one of another form."""
        made = {}
        for name, (shape, dtype) in self.forms.items():
            # Text has any length.
            array = np.zeros((len(rows), *shape), object if dtype.kind == "U" else dtype)
            for position, example in enumerate(found):
                value = self._fitting(name, example[name], int(rows[position]), shape, dtype)
                array[position] = value.item() if array.dtype == object else value
            if name == "targets" and self.encode is not None:
                array = self.encode(array, rows)
            made[name] = array
        return made

    def _fitting(self, name: str, value: np.ndarray, row: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The array, if it has the form of the others; else a `DataError` names the row."""
        if value.shape != shape:
            raise DataError(
                f"{self.item.what}: {name} of row {row} have shape {value.shape}, those of the first rows {shape}; give all "
                f"examples one shape (images: cut or resize them; sequences: pad them)"
            )
        if value.dtype != dtype and not np.can_cast(value.dtype, dtype, "same_kind") and value.dtype.kind not in "SU":
            raise DataError(
                f"{self.item.what}: {name} of row {row} are {value.dtype}, those of the first rows {dtype}; give all examples "
                f"one dtype"
            )
        if value.dtype.kind != dtype.kind and "U" in (value.dtype.kind, dtype.kind):
            raise DataError(f"{self.item.what}: {name} of row {row} mix text and numbers; give all examples one kind")
        return value

    @functools.cached_property
    def steady(self) -> bool:
        """Whether some rows are the same when they are read twice, the second time in threads."""
        rows = np.unique(np.linspace(0, len(self.source) - 1, TWICE).astype(np.int64))
        first = dataclasses.replace(self, threads=1, workers=None, transform=None).read(rows)
        again = dataclasses.replace(self, transform=None).read(rows)
        return all(first[name].tobytes() == again[name].tobytes() for name in first)

    def identity(self) -> str:
        """Number of rows, shapes and dtypes, and the random changes."""
        return repr(
            (
                type(self.source).__qualname__,
                len(self.source),
                str(getattr(self.source, "fingerprint", "")),
                sorted((name, shape, dtype.str) for name, (shape, dtype) in self.forms.items()),
                self.transform and named(self.transform),
            )
        )
