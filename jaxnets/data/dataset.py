"""A data set in memory: named arrays in two splits, and how an example is made ready for a model."""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.core.scaling import blocks
from jaxnets.core.types import Card, Tokens
from jaxnets.data.augment import Augment
from jaxnets.data.preparation import Preparation, describe
from jaxnets.data.prepare import Standardize as Standardize
from jaxnets.data.prepare import TokenIds as TokenIds
from jaxnets.data.split import WEIGHTS, plain_split

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test examples. Each split is a dict of arrays with a leading example dim: `inputs`, `targets`.

    The arrays are raw, as `predict` takes them: `prepare` scales inputs on their way to the model. Further arrays go beside
    them: `weights` `[N]` (or `mask`, 0 or 1) says how much each example counts, `lengths` `[N]` how much of a sequence is
    real, and what a task needs (a graph's edges, say) reaches the batch under its own name. A name that nothing reads is an
    error.
    """

    name: str
    """What messages and reports call the data."""
    train: Arrays
    """The training split: arrays by name."""
    test: Arrays
    """The test split, with the same names."""
    class_names: tuple[str, ...] = ()
    """Names of the classes; empty where the targets are real numbers."""
    target_name: str = "target"
    """What reports call the target."""
    target_kind: str = ""
    """"labels", "series", "token" or "sequence" (see `Card`); "" to tell classes and numbers by `class_names`."""
    prepare: Standardize | TokenIds = Standardize()
    """Makes raw inputs ready for a model; part of every batch, in training and after."""
    augment: Augment = Augment()
    """Random changes to training inputs, drawn anew at every step."""
    source: str = "given by the caller"
    """Where the bytes came from."""
    tokenizer: Any = None
    """What turned a text into these tokens, and turns tokens into text (`data.tokenizers.Tokenizer`); None without text."""
    tokens: Tokens | None = None
    """What the inputs are made of, where they are tokens filled up with 0 (`class_names` are of the targets)."""
    columns: Any = None
    """What makes inputs of the rows of a table (`data.columns.Columns`); None where they come from no such table."""
    feature_names: tuple[str, ...] = ()
    """Of the inputs' last dim, where they have names."""
    learned: Preparation | None = None
    """What an earlier opening of the data taught, as a run keeps it; None learns it from the training split."""
    hollow: bool = False
    """Whether the arrays stand for their shapes alone, as where a run is opened without its data."""

    def __post_init__(self) -> None:
        for split, field in (("training", "train"), ("test", "test")):
            arrays = plain_split(
                f"{self.name}: the {split}", getattr(self, field), self.target_kind or "class" * bool(self.class_names)
            )
            object.__setattr__(self, field, arrays)
        shape = self.train["inputs"].shape[1:]
        if len(shape) != 3 and self.augment != Augment(noise=self.augment.noise):
            raise DataError(
                f"{self.name}: shift, flip and cutout are for images [height, width, channels]; inputs have shape {shape}"
            )
        for split, arrays in (("training", self.train), ("test", self.test)):
            self.preparation.check_named(split, arrays)

    @functools.cached_property
    def preparation(self) -> Preparation:
        """What the training split taught; see there."""
        return self.learned or describe(self)

    @property
    def card(self) -> Card:
        """What a task may know before it sees a batch."""
        return self.preparation.card

    def as_raw(self, prepared: np.ndarray) -> np.ndarray:
        """Made inputs in the form in which the data keep theirs: of that dtype, rounded and cut to its range if integers."""
        if not isinstance(self.prepare, Standardize):
            raise DataError(f"the inputs of {self.name!r} are tokens, which have no inverse")
        raw, dtype = self.prepare.undo(prepared), self.train["inputs"].dtype
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            raw = np.clip(np.rint(raw), limits.min, limits.max)
        return raw.astype(dtype)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of every byte, shape, name and preparation: two sets with the same fingerprint train the same."""
        tokens = (self.tokens,) if self.tokens else ()
        digest = hashlib.sha256(repr((self.prepare, self.augment, self.class_names, *tokens)).encode())
        if self.tokenizer is not None:
            digest.update(self.tokenizer.digest.encode())
        for split in (self.train, self.test):
            for key in sorted(split):
                digest.update(f"{key}{split[key].shape}{split[key].dtype.str}".encode())
                for block in blocks(split[key]):
                    digest.update(np.ascontiguousarray(block).data.cast("B") if block.size else b"")
        return digest.hexdigest()[:32]

    @property
    def nbytes(self) -> int:
        """Bytes of both splits on a device, where numbers have 32 bits at most."""
        return sum(
            array.size * min(array.dtype.itemsize, 4) for split in (self.train, self.test) for array in split.values()
        )


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set by name and options, as a configuration holds it."""

    def open(self) -> Dataset:
        """Read it (downloading and checking where need be); raises `DataError`."""
        raise NotImplementedError

    def outline(self) -> Dataset:
        """A data set of which the shapes, dtypes and names alone are true, for a summary; sources that know them need not
        be opened."""
        return self.open()


def with_learned(dataset: Dataset, learned: Preparation) -> Dataset:
    """The same examples, made ready as an earlier opening of them taught."""
    return dataclasses.replace(dataset, prepare=learned.prepare, learned=learned)


def hollow(learned: Preparation) -> Dataset:
    """A data set of the right shapes and without examples, for a run whose arrays only its caller had."""

    def arrays(count: int) -> Arrays:
        zeros = {form.name: np.zeros((), form.dtype) for form in learned.forms if form.name not in WEIGHTS}
        return {name: np.broadcast_to(zero, (count, *learned.form(name).shape)) for name, zero in zeros.items()}

    return Dataset(
        name=learned.name,
        train=arrays(learned.examples[0]),
        test=arrays(learned.examples[1]),
        class_names=learned.class_names,
        target_name=learned.target_name,
        target_kind=learned.kind,
        prepare=learned.prepare,
        tokens=learned.tokens,
        columns=learned.columns,
        feature_names=learned.feature_names,
        learned=learned,
        hollow=True,
    )
