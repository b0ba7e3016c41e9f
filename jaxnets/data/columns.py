"""The columns of a table as features: learned from the training rows, used on any rows after."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxnets.errors import DataError, did_you_mean

MOST_WORDS = 100
# What tables write where nothing is known.
EMPTY = ("", "na", "n/a", "nan", "null", "none", "?", "-")


def to_numbers(values: Sequence[str]) -> np.ndarray | None:
    """The column as float64 with NaN for empty cells, or None where a cell is not a number."""
    try:
        return np.array([np.nan if v.strip().lower() in EMPTY else float(v) for v in values])
    except ValueError:
        return None


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: a number to be standardised, or words, each a 0/1 feature of its own."""

    name: str
    """In the table's header."""
    words: tuple[str, ...] | None = None
    """Those of the training rows; None for numbers."""
    median: float = 0.0
    """What stands in for empty cells."""
    mean: float = 0.0
    """Subtracted."""
    std: float = 1.0
    """Divides."""

    @classmethod
    def learn(cls, table: str, name: str, values: Sequence[str], train: np.ndarray) -> "Column":
        """From all cells and the numbers of the training rows; raises `DataError` for too many words or an infinity."""
        numbers = to_numbers(values)
        if numbers is None:
            words = sorted({values[i].strip() for i in train})
            if len(words) > MOST_WORDS:
                raise DataError(
                    f"{table}: column {name!r} has {len(words)} different words, at most {MOST_WORDS} make sense as "
                    f"features; leave it out with ignore"
                )
            return cls(name, tuple(words))
        cls(name)._finite(table, numbers)
        known = numbers[train][~np.isnan(numbers[train])]
        median = float(np.median(known)) if known.size else 0.0
        filled = np.where(np.isnan(numbers[train]), median, numbers[train])
        return cls(name, None, median, float(filled.mean()), float(filled.std()) or 1.0)

    def encode(self, table: str, values: Sequence[str]) -> np.ndarray:
        """Features `[rows, k]` float64; a word that no training row had is none of the words."""
        if self.words is not None:
            cells = np.array([value.strip() for value in values])
            return (cells[:, None] == np.array(self.words)[None, :]).astype(np.float64)
        numbers = to_numbers(values)
        if numbers is None:
            row = next(i for i, value in enumerate(values) if to_numbers([value]) is None)
            raise DataError(
                f"{table}: column {self.name!r} holds numbers, but row {row + 1} has {values[row]!r}; correct it, or leave "
                f"the cell empty"
            )
        self._finite(table, numbers)
        return ((np.where(np.isnan(numbers), self.median, numbers) - self.mean) / self.std)[:, None]

    def _finite(self, table: str, numbers: np.ndarray) -> None:
        if np.isinf(numbers).any():
            row = int(np.flatnonzero(np.isinf(numbers))[0]) + 1
            raise DataError(f"{table}: column {self.name!r} is infinite in row {row}; remove or fill it")


@dataclasses.dataclass(frozen=True)
class Columns:
    """All columns of a table that make up the inputs."""

    columns: tuple[Column, ...]
    """In the order of the features."""
    derive: Callable[[dict[str, list[str]]], dict[str, list[str]]] = dict
    """Adds columns that are computed from others."""

    def encode(self, table: str, given: Mapping[str, Sequence[str]]) -> np.ndarray:
        """Inputs `[rows, features]` float32 of a table by header name; other columns are not looked at."""
        try:
            cells = self.derive({name: list(values) for name, values in given.items()})
            wanted = [cells[column.name] for column in self.columns]
        except KeyError as error:
            name = str(error.args[0])
            raise DataError(
                f"{table} has no column {name!r}, which the model was trained with. {did_you_mean(name, given)}"
            ) from error
        parts = [column.encode(table, values) for column, values in zip(self.columns, wanted, strict=True)]
        return np.concatenate(parts, axis=1).astype(np.float32)
