"""A data set in memory: named arrays in two or three splits, and how examples are prepared for a model."""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.core.scaling import blocks
from jaxnets.core.types import Card, Tokens
from jaxnets.data.augment import Augment, Augmentation, as_augment
from jaxnets.data.facts import facts_of
from jaxnets.data.large import LazyArray
from jaxnets.data.preparation import Preparation, describe
from jaxnets.data.prepare import Standardize as Standardize
from jaxnets.data.prepare import TokenIds as TokenIds
from jaxnets.data.several import Input
from jaxnets.data.split import WEIGHTS, plain_split

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test examples. Each split is a dict of arrays with a leading example dim: `inputs`, `targets`.

    The arrays are raw, as `predict` takes them; `prepare` scales inputs before they reach the model. A split may hold more
    arrays: `weights` `[N]` (or `mask`, 0 or 1) is the weight of each example, `lengths` `[N]` is the number of real steps of
    each sequence. Arrays that a task needs (the edges of a graph, for example) reach the batch under their own names. An
    array name that nothing reads is an error.
    """

    name: str
    """Name of the data in messages and reports."""
    train: Arrays
    """The training split: arrays by name."""
    test: Arrays
    """The test split, with the same names."""
    class_names: tuple[str, ...] = ()
    """Names of the classes; empty if the targets are real numbers."""
    target_name: str = "target"
    """Name of the target in reports."""
    target_kind: str = ""
    """"labels", "series", "token" or "sequence" (see `Card`). "": classes if there are `class_names`, else real numbers."""
    prepare: Standardize | TokenIds = Standardize()
    """Prepares raw inputs for a model; applied to every batch, in training, evaluation and prediction."""
    augment: Augmentation = Augment()
    """Random changes to training examples, drawn again at every step (`data.augment`); a tuple of them, or a function of your
    own (see `OwnAugment`)."""
    source: str = "given by the caller"
    """The origin of the data."""
    tokenizer: Any = None
    """Encodes text as these tokens and decodes tokens (`data.text.tokenizers.Tokenizer`); None if there is no text."""
    tokens: Tokens | None = None
    """The vocabulary of the inputs, if they are tokens padded with 0 (`class_names` belong to the targets)."""
    columns: Any = None
    """Encodes the rows of a table as inputs (`data.tabular.columns.Columns`); None if the data are not such a table."""
    feature_names: tuple[str, ...] = ()
    """Names along the last dim of the inputs, if any."""
    several: tuple[Input, ...] = ()
    """The inputs of a model that takes several (`data.several`); () if there is one array."""
    learned: Preparation | None = None
    """The preparation that an earlier run saved; None computes it from the training split."""
    validation: Arrays | None = None
    """The split by which a run chooses (early stopping, the best checkpoint), with the same names; None: there is none."""
    separator: int | None = None
    """The token that ends each document, if documents are packed into windows and attention does not cross it."""
    overlap: int = 0
    """How many of the next training rows share targets with a row, as overlapping windows of a text do."""
    divided: bool = False
    """Whether a run set the validation split aside already."""
    hollow: bool = False
    """Whether the arrays are placeholders that only have the right shapes: a run opened without its data."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "augment", as_augment(self.augment))
        for split, field in SPLITS:
            if getattr(self, field) is None:
                continue
            arrays = plain_split(
                f"{self.name}: the {split}", getattr(self, field), self.target_kind or "class" * bool(self.class_names)
            )
            object.__setattr__(self, field, arrays)
        if self.augment.active or self.augment.mixes:
            self.augment.check(facts_of(self.preparation))
        for split, arrays in self.splits.items():
            self.preparation.check_named(split, arrays)

    @property
    def splits(self) -> dict[str, Arrays]:
        """The arrays of each split, by its name in messages; without validation if there is none."""
        return {split: getattr(self, field) for split, field in SPLITS if getattr(self, field) is not None}

    @functools.cached_property
    def preparation(self) -> Preparation:
        """The statistics and formats of the training split; see `Preparation`."""
        return self.learned or describe(self)

    @property
    def card(self) -> Card:
        """The description of the data that a task is bound to."""
        return self.preparation.card

    def as_raw(self, prepared: np.ndarray) -> np.ndarray:
        """Prepared inputs as raw inputs: unscaled, in the dtype of the data; integers are rounded and clipped to its range."""
        if not isinstance(self.prepare, Standardize):
            raise DataError(f"the inputs of {self.name!r} are tokens, which have no inverse")
        raw, dtype = self.prepare.undo(prepared), self.train["inputs"].dtype
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            raw = np.clip(np.rint(raw), limits.min, limits.max)
        return raw.astype(dtype)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the bytes, shapes and names of training and test, and of the preparation: equal fingerprints give equal
        training. (Validation is not included: it changes no weight.)

        Of a lazy array it covers some rows, and size and time of the file.
        """
        tokens: tuple[Any, ...] = tuple(part for part in (self.tokens, self.several) if part)
        tokens += () if self.separator is None else (self.separator,)
        digest = hashlib.sha256(repr((self.prepare, self.augment, self.class_names, *tokens)).encode())
        if self.tokenizer is not None:
            digest.update(self.tokenizer.digest.encode())
        for split in (self.train, self.test):
            add_to_digest(digest, split)
        return digest.hexdigest()[:32]

    @property
    def lazy(self) -> bool:
        """Whether some array is read row by row, so that the data are streamed unless `placement` is "device"."""
        return any(isinstance(array, LazyArray) for split in self.splits.values() for array in split.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all splits on a device, where numbers have at most 32 bits."""
        return sum(
            array.size * min(array.dtype.itemsize, 4) for split in self.splits.values() for array in split.values()
        )


# Each split as messages call it, and its field.
SPLITS = (("training", "train"), ("test", "test"), ("validation", "validation"))


def add_to_digest(digest: Any, arrays: Arrays) -> None:
    """Update a digest of hashlib with the names, shapes, dtypes and bytes of some arrays."""
    for key in sorted(arrays):
        digest.update(f"{key}{arrays[key].shape}{arrays[key].dtype.str}".encode())
        array: Any = arrays[key]
        if isinstance(array, LazyArray):
            array.update(digest)
            continue
        for block in blocks(array):
            digest.update(np.ascontiguousarray(block).data.cast("B") if block.size else b"")


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set by name and options, as a configuration holds it."""

    def open(self) -> Dataset:
        """Read the data set, downloading and verifying it if needed; raises `DataError`."""
        raise NotImplementedError

    def outline(self) -> Dataset:
        """A data set with the right shapes, dtypes and names, for a summary. Sources that know these override it, so that
        nothing is read."""
        return self.open()


def with_learned(dataset: Dataset, learned: Preparation) -> Dataset:
    """The same examples with the preparation that an earlier run saved."""
    return dataclasses.replace(dataset, prepare=learned.prepare, learned=learned)


def hollow(learned: Preparation) -> Dataset:
    """A data set with the right shapes and zeros as data, for a run whose arrays existed only in the caller's memory."""

    def arrays(count: int) -> Arrays:
        zeros = {form.name: np.zeros((), form.dtype) for form in learned.forms if form.name not in WEIGHTS}
        return {name: np.broadcast_to(zero, (count, *learned.form(name).shape)) for name, zero in zeros.items()}

    return Dataset(
        name=learned.name,
        train=arrays(learned.examples[0]),
        test=arrays(learned.examples[1]),
        validation=arrays(learned.validation) if learned.validation else None,
        class_names=learned.class_names,
        target_name=learned.target_name,
        target_kind=learned.kind,
        prepare=learned.prepare,
        tokens=learned.tokens,
        columns=learned.columns,
        feature_names=learned.feature_names,
        several=learned.several,
        separator=learned.separator,
        learned=learned,
        hollow=True,
    )
