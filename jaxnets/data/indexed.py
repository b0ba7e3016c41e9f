"""A data set from an object with `__len__` and `__getitem__`, whose rows are read when their batch is needed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxnets.core.errors import DataError, UsageError, note
from jaxnets.core.scaling import extremes, mean_and_deviation
from jaxnets.data.arrays import check_prepared, from_arrays
from jaxnets.data.augment import Augmentation, as_augment
from jaxnets.data.dataset import Dataset
from jaxnets.data.held_out import holdout_rows
from jaxnets.data.index_reader import Examples, IndexReader, Item
from jaxnets.data.large import LazyArray, check_rows, sample_rows
from jaxnets.data.prepare import Standardize, TokenIds, fit_standardize
from jaxnets.data.read_arrays import check_inputs
from jaxnets.data.source_targets import encoder_of, names_in, read_kind
from jaxnets.data.workers import Workers, check_copied

# Row numbers are int32 on the device.
MOST_ROWS = 2**31 - 1
FIRST_ROWS = 4


def from_source(
    source: Any,
    *,
    test: Any = None,
    holdout: float = 0.2,
    seed: int = 0,
    name: str = "source",
    inputs: str = "inputs",
    targets: str = "targets",
    also: Sequence[str] = (),
    read: Callable[[Any], Any] | None = None,
    transform: Callable[[np.random.Generator, dict[str, Any]], Mapping[str, Any]] | None = None,
    augment: Augmentation | Sequence[Augmentation] | Callable[..., Any] | None = None,
    standardize: bool = True,
    input_kind: Literal["numbers", "tokens"] = "numbers",
    kind: Literal["auto", "class", "labels", "number", "token", "any"] = "auto",
    class_names: Sequence[str] | int | None = None,
    target_name: str = "target",
    threads: int = 4,
    processes: int = 0,
) -> Dataset:
    """A data set from any source of examples by number: rows are read when their batch is needed, except for a sample.

    That is a PyTorch map-style `Dataset`, a Hugging Face `datasets.Dataset`, a Grain `MapDataset`, a list of files with
    `read`, or an object of your own. Threads or processes read the rows, in the exact order of the run; a resumed run has
    the same bits.

    Args:
        source: an object with `__len__` and `__getitem__(row)`, which gives `(inputs, targets)` or a dict; where it has
            `__getitems__(rows)`, that is used. Or a dict of arrays (also an open file of h5py or a group of zarr).
        test: the test split, such an object too; None holds out a share of the rows.
        holdout: that share, in (0, 1).
        seed: seed of the shuffle before the holdout split.
        name: name for messages and the report.
        inputs: the name of the inputs in items that are dicts.
        targets: the name of the targets in items that are dicts.
        also: further names to take from dicts, such as "lengths"; the others are left out.
        read: a function of an item that returns `(inputs, targets)` or a dict, such as one that opens a file.
        transform: a function `(rng, example) -> example` for random changes while training, on the host. `example` is a dict
            with "inputs" and "targets"; `rng` is a NumPy generator seeded by (seed of the run, step, row). It keeps shapes
            and dtypes.
        augment: random changes on the device, as in `from_arrays`.
        standardize: scale inputs by mean and deviation of a sample of up to 10,000 training rows.
        input_kind: "tokens": whole numbers that stand for tokens or categories.
        kind: what the targets are; by default as in `from_arrays`, by the sample. "token": a token at each step of the inputs.
        class_names: names of the classes, or their number; by default those of the source (`classes`, or the features of a
            Hugging Face data set), else those found in the sample.
        target_name: name of the predicted quantity.
        threads: how many read at the same time; 1 for an object that is not safe for threads.
        processes: how many processes read in place of threads, where reading is Python code that takes long, such as random
            changes of images. Each has a copy of `source`, which can be pickled.

    Raises:
        DataError: a row cannot be read, or does not have the form of the first rows, or has an unknown class.
        UsageError: the source has no row numbers.
    """
    if isinstance(source, Mapping) or hasattr(source, "create_group"):
        return _from_mapping(
            source, test, inputs, targets, holdout=holdout, seed=seed, name=name, standardize=standardize,
            input_kind=input_kind, kind=kind, class_names=class_names, target_name=target_name, augment=augment,
        )  # fmt: skip
    check_source(name, source)
    _check_reading(name, threads, processes, transform)
    item = Item(name, inputs, targets, tuple(also), read)
    class_names = names_in(source, targets) if class_names is None else class_names
    plain = _reader(source, item, threads, processes)
    if test is None:
        train_rows, test_rows = holdout_rows(name, len(source), holdout, seed)
        readers = (plain, plain)
    else:
        check_source(f"{name}, test", test)
        train_rows, test_rows = np.arange(len(source)), np.arange(len(test))
        readers = (plain, _reader(test, dataclasses.replace(item, what=f"{name}, test"), threads, processes))
    samples = [_sample(reader, rows) for reader, rows in zip(readers, (train_rows, test_rows), strict=True)]
    found = read_kind(name, samples[0].targets(), samples[1].targets(), class_names, kind)
    complete = all(sample.complete for sample in samples)
    if found.kind == "class" and class_names is None and not complete:
        note(
            f"{name}: {len(found.names)} classes were found in the targets of {len(samples[0].rows):,} of {len(train_rows):,} "
            f"training rows; if there are more, give class_names=, their names or their number"
        )
    encode = encoder_of(name, found, targets_of=samples[0].forms["targets"])
    parts = []
    for reader, rows, sample, change in zip(readers, (train_rows, test_rows), samples, (transform, None), strict=True):
        made = dataclasses.replace(reader, forms=samples[0].forms, encode=encode, transform=change)
        parts.append(_lazy(made, rows, sample))
    train, held = parts
    x = check_inputs(name, "training", train["inputs"])
    prepare: Standardize | TokenIds = TokenIds()
    if input_kind == "numbers":
        prepare = _scale(name, samples[0], train_rows) if standardize else Standardize()
    elif x.dtype.kind not in "iu" or x.min() < 0:
        raise DataError(f"{name}: input_kind='tokens' takes whole numbers, at least 0, got {x.dtype} from {x.min()}")
    for split, sample in zip(("training", "test"), samples, strict=True):
        check_prepared(f"{name}: {split} inputs, in 32 bits,", prepare, sample.arrays["inputs"])
    if not train["inputs"].reader.steady:
        note(
            f"{name}: some rows are not the same when they are read twice, so a resumed run will not have the same bits. "
            f"Random changes belong into transform=; if nothing is random, the source is not safe for threads: threads=1"
        )
    return Dataset(
        name=name,
        train=train,
        test=held,
        class_names=found.names,
        target_kind=found.kind,
        target_name=target_name,
        prepare=prepare,
        augment=as_augment(augment),
    )


@dataclasses.dataclass(frozen=True)
class Sample:
    """Examples of a split that were read before training."""

    rows: np.ndarray
    """Their row numbers in the source."""
    arrays: dict[str, np.ndarray]
    """Their arrays, targets as they are in the source."""
    forms: dict[str, tuple[tuple[int, ...], np.dtype]]
    """Shape and dtype of each array of an example."""
    complete: bool
    """Whether these are all rows."""

    def targets(self) -> np.ndarray:
        """The targets, text as text."""
        found = self.arrays["targets"]
        return found.astype(str) if found.dtype == object else found


def check_source(name: str, source: Any) -> None:
    """Raise `UsageError` or `DataError` unless a source has row numbers and rows."""
    known = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    if isinstance(source, str | bytes | tuple) or not known:
        remedy = "give an object with __len__ and __getitem__, or a list"
        if hasattr(source, "dataset"):
            remedy = "give its .dataset; jaxnets makes the batches"
        elif hasattr(source, "__iter__") and not isinstance(source, str | bytes | tuple):
            remedy = (
                "the order of the batches and resuming need row numbers, which an iterator does not have: give list(...) of "
                "it, or write it to a file once (numpy.lib.format.open_memmap), or open the data set without streaming"
            )
        elif isinstance(source, tuple):
            remedy = "arrays go to from_arrays(inputs, targets)"
        raise UsageError(f"{name}: a {type(source).__name__} is not a source of examples by number; {remedy}")
    count = len(source)
    if not 0 < count <= MOST_ROWS:
        remedy = "leave out .repeat(): epochs are counted by jaxnets" if count else "give at least one"
        raise DataError(f"{name}: the source has {count:,} examples, from 1 to {MOST_ROWS:,} are possible; {remedy}")


def is_source(data: Any) -> bool:
    """Whether `fit` takes this as a source: not arrays, frames or text, which have rows too."""
    if isinstance(data, str | bytes | np.ndarray | tuple) or hasattr(data, "dtypes") or hasattr(data, "dtype"):
        return False
    if isinstance(data, list):
        return len(data) > 3 and all(isinstance(item, tuple | Mapping) for item in data[:FIRST_ROWS])
    return isinstance(data, Mapping) or hasattr(data, "__getitem__") or hasattr(data, "__iter__")


def _check_reading(name: str, threads: int, processes: int, transform: Any) -> None:
    if threads < 1:
        raise UsageError(f"threads is at least 1, got {threads}")
    if processes < 0:
        raise UsageError(f"processes is a number of processes, or 0 for threads; got {processes}")
    if processes:
        check_copied(f"{name}: transform", transform)


def _reader(source: Any, item: Item, threads: int, processes: int) -> IndexReader:
    if not processes:
        return IndexReader(source, item, threads)
    return IndexReader(source, item, processes, Workers(item.what, Examples(source, item), processes))


def _sample(reader: IndexReader, rows: np.ndarray) -> Sample:
    """The examples from which forms, classes and statistics are learned."""
    first = reader.examples(rows[: min(len(rows), FIRST_ROWS)].tolist())
    shape, dtype = first[0]["inputs"].shape, first[0]["inputs"].dtype
    picked = rows[sample_rows(len(rows), shape, dtype)]
    examples = reader.examples(picked.tolist())
    forms = {}
    for name, value in first[0].items():
        dtypes = {example[name].dtype for example in examples}
        kinds = {dtype.kind in "SU" for dtype in dtypes}
        forms[name] = (value.shape, np.result_type(*dtypes) if len(kinds) == 1 else value.dtype)
    reader = dataclasses.replace(reader, forms=forms)
    arrays = reader.stacked(examples, picked)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and name != "targets":
            check_rows(name, array, picked)
    return Sample(picked, arrays, forms, len(picked) == len(rows))


def _lazy(reader: IndexReader, rows: np.ndarray, sample: Sample) -> dict[str, Any]:
    """The unread arrays of a split, with the statistics of the sample."""
    made: dict[str, Any] = {}
    for name in reader.forms:
        seen = sample.arrays[name]
        if name == "targets" and reader.encode is not None:
            seen = reader.encode(seen, sample.rows)
        flat = seen.reshape(len(seen), -1) if seen.ndim < 2 else seen
        scale = (
            mean_and_deviation(seen.reshape(len(seen), -1)) if name == "targets" and seen.dtype.kind == "f" else None
        )
        made[name] = LazyArray(reader, name, seen.shape[1:], seen.dtype, rows, extremes(flat), scale)
    return made


def _scale(name: str, sample: Sample, rows: np.ndarray) -> Standardize:
    if not sample.complete:
        note(
            f"{name}: inputs are standardised by mean and deviation of {len(sample.rows):,} of {len(rows):,} training rows; "
            f"standardize=False leaves them as they are"
        )
    return fit_standardize(sample.arrays["inputs"])


def _from_mapping(source: Any, test: Any, inputs: str, targets: str, **options: Any) -> Dataset:
    """A data set from a dict of arrays, or from a file that holds them by name."""
    splits = [found for found in (source, test) if found is not None]
    for split in splits:
        for name in (inputs, targets):
            if not hasattr(split, "keys") or name not in split:
                held = ", ".join(map(str, split.keys())) if hasattr(split, "keys") else type(split).__name__
                raise DataError(
                    f"{options['name']}: "
                    f"there is no array {name!r} in {held or 'nothing'}; name the arrays: from_source(source, "
                    f"inputs=..., targets=...), or give one split of several (source['train'], test=source['test'])"
                )
    if isinstance(options["class_names"], int):
        options["class_names"] = tuple(map(str, range(options["class_names"])))
    held_out = None if test is None else (test[inputs], test[targets])
    return from_arrays(source[inputs], source[targets], test=held_out, **options)
