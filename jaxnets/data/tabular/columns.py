"""The columns of a table as features: learned from the training rows, used on any rows after.

Everything here is plain data, so that it can be kept with a run. `N` rows.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnets.core.errors import DataError, did_you_mean, note
from jaxnets.core.scaling import LARGEST_EXACT
from jaxnets.core.types import Table
from jaxnets.data.tabular.cells import CellFormat
from jaxnets.data.tabular.csv_files import Reading, read_table
from jaxnets.data.tabular.given_cells import as_days, as_numbers, as_words, by_name


class Remark(NamedTuple):
    """Something about new rows."""

    new: bool
    """Whether it is something that training did not see at all, not a number outside its range."""
    text: str


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: a number or a date to be standardised, or words, each a 0/1 feature of its own."""

    name: str
    """In the table's header."""
    words: tuple[str, ...] | None = None
    """Those of the training rows, "" for a missing cell if there was one; None for numbers."""
    median: float = 0.0
    """What stands in for missing numbers."""
    mean: float = 0.0
    """Subtracted."""
    std: float = 1.0
    """Divides."""
    least: float | None = None
    """The smallest number of the training rows; None where nobody looked."""
    most: float | None = None
    """The largest number of the training rows."""
    missing: int = 0
    """Missing cells in the training rows."""
    dates: bool = False
    """Whether the numbers are days since 1970-01-01, of dates."""

    @property
    def kind(self) -> str:
        """What it was read as."""
        return "words" if self.words is not None else "dates" if self.dates else "numbers"

    def encode(
        self, table: str, values: Any, format: CellFormat, lines: Sequence[int] | None, remarks: list[Remark]
    ) -> np.ndarray:
        """Features `[N, k]` float64; what training has not seen is added to `remarks`.

        Args:
            table: its name, for messages.
            values: cells of text, numbers, or a mix of both with None and NaN.
            format: how cells of text are written.
            lines: of the file, for each row; None for tables in memory.
            remarks: what there is to say.

        Raises:
            DataError: a word among numbers, or an infinite one.
        """
        if self.words is not None:
            return self._encode_words(values, format, remarks)
        read = as_days if self.dates else as_numbers
        numbers, odd = read(values, format)
        if odd:
            row = odd[0]
            line = f" (line {lines[row]})" if lines is not None else ""
            raise DataError(
                f"{table}: column {self.name!r} holds {self.kind}, but row {row + 1} has {values[row]!r}{line}; "
                f"correct it, or leave the cell empty"
            )
        check_infinite(table, self.name, numbers, lines)
        gaps = np.isnan(numbers)
        of = f"of {len(numbers)} rows: column {self.name!r} is"
        if gaps.any():
            means = "missing" if self.missing else "missing, which no training row is"
            instead = f"the median {self._shown(self.median)} stands in"
            remarks.append(Remark(not self.missing, f"{gaps.sum()} {of} {means}; {instead}"))
        if self.least is not None and self.most is not None:
            outside = np.flatnonzero((numbers < self.least) | (numbers > self.most))
            if outside.size:
                means = f"outside the {self._shown(self.least)} to {self._shown(self.most)} of training"
                remarks.append(Remark(False, f"{outside.size} {of} {means} ({self._shown(numbers[outside[0]])}, say)"))
        return ((np.where(gaps, self.median, numbers) - self.mean) / self.std)[:, None]

    def _encode_words(self, values: Any, format: CellFormat, remarks: list[Remark]) -> np.ndarray:
        assert self.words is not None
        cells = np.array(as_words(values, format, self.words), dtype=object)
        features = cells[:, None] == np.array(self.words, dtype=object)[None, :]
        unknown = cells[~features.any(axis=1)]
        unseen = list(dict.fromkeys(unknown[unknown != ""]))
        if unseen:
            count = int((unknown != "").sum())
            listed = ", ".join(repr(word[:40]) for word in unseen[:3]) + (", ..." if len(unseen) > 3 else "")
            remarks.append(
                Remark(
                    True,
                    f"{count} of {len(cells)} rows: column {self.name!r} has words that training did not see "
                    f"({listed}); they are none of the words",
                )
            )
        if gaps := int((cells == "").sum()):
            new = "" not in self.words
            means = ", which no training row is; it is none of the words" if new else ""
            remarks.append(Remark(new, f"{gaps} of {len(cells)} rows: column {self.name!r} is missing{means}"))
        return features.astype(np.float64)

    def row(self) -> tuple[str, ...]:
        """Name, kind, missing cells, values and what stands in for missing, for a table that people look at."""
        if self.words is None:
            known = self.least is not None and self.most is not None
            values = f"{self._shown(self.least)} to {self._shown(self.most)}" if known else ""
            return self.name, self.kind, str(self.missing), values, f"median {self._shown(self.median)}"
        words = [word for word in self.words if word]
        values = f"{len(words)}: {', '.join(words[:6])}{', ...' if len(words) > 6 else ''}"
        return self.name, "words", str(self.missing), values, "a feature of its own" if "" in self.words else "no word"

    def _shown(self, value: float | None) -> str:
        if self.dates and value is not None:
            return str(np.datetime64(round(value * 86400), "s")).removesuffix("T00:00:00")
        return "" if value is None else f"{value:.6g}"


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A further column: one column of numbers divided by another."""

    name: str
    over: str
    under: str

    def of(self, columns: Mapping[str, Any], format: CellFormat) -> np.ndarray:
        """Ratios `[N]` float64, NaN where one of the two is missing; raises `KeyError`, `DataError`."""
        parts = []
        for name in (self.over, self.under):
            numbers, odd = as_numbers(columns[name], format)
            if odd:
                raise DataError(
                    f"{self.name} needs numbers in {name!r}, but row {odd[0] + 1} has {columns[name][odd[0]]!r}; "
                    f"correct it"
                )
            parts.append(numbers)
        with np.errstate(divide="ignore", invalid="ignore"):
            return parts[0] / parts[1]


@dataclasses.dataclass(frozen=True)
class Columns:
    """All columns of a table that make up the inputs, and how the table was read."""

    columns: tuple[Column, ...]
    """In the order of the features."""
    ratios: tuple[Ratio, ...] = ()
    """Columns that are computed from others."""
    format: CellFormat = CellFormat()
    """How cells of text are written."""
    reading: Reading = Reading()
    """What was said of how the file is written."""
    target: str = ""
    """The column that is predicted, which new rows need not have."""
    source: str = ""
    """The file, and how it was found to be written."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Other columns of the file, and why they make no features."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Of the inputs' last dim: a column of numbers, or `column=word`."""
        return tuple(
            name
            for column in self.columns
            for name in ([column.name] if column.words is None else [f"{column.name}={word}" for word in column.words])
        )

    def encode(self, table: str, given: Any, *, lines: Sequence[int] | None = None) -> np.ndarray:
        """Inputs `[N, features]` float32 of rows of a table; other columns are not looked at.

        What training has not seen (words, missing cells, numbers outside its range) is counted and said in one note.

        Args:
            table: its name, for messages.
            given: columns by name, as a dict of sequences, a pandas or Polars data frame, a structured array or a list of
                rows that are dicts. Cells are text as in a file, numbers, booleans, dates, or None and NaN for missing.
            lines: of a file, for each row.

        Raises:
            DataError: a column that is not there, columns of different lengths, or a cell that does not fit its column.
        """
        remarks: list[Remark] = []
        features = self.features(table, given, remarks, lines=lines)
        if remarks:
            note(f"{table}: " + "; ".join(remark.text for remark in remarks))
        return features

    def features(
        self, table: str, given: Any, remarks: list[Remark], *, lines: Sequence[int] | None = None
    ) -> np.ndarray:
        """As `encode`, with what there is to say added to `remarks` instead of said."""
        cells = by_name(table, given)
        try:
            cells |= {ratio.name: ratio.of(cells, self.format) for ratio in self.ratios}
            wanted = [cells[column.name] for column in self.columns]
        except KeyError as error:
            name = str(error.args[0])
            raise DataError(
                f"{table} has no column {name!r}, which the model was trained with. {did_you_mean(name, cells)}"
            ) from error
        except DataError as error:
            raise DataError(f"{table}: {error}") from error
        lengths = {column.name: len(values) for column, values in zip(self.columns, wanted, strict=True)}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{table}: columns have different lengths, {lengths}; give one cell for each row")
        parts = [
            column.encode(table, values, self.format, lines, remarks)
            for column, values in zip(self.columns, wanted, strict=True)
        ]
        with np.errstate(over="ignore"):  # what overflows is found by the check that follows
            return np.concatenate(parts, axis=1).astype(np.float32)

    def read(self, path: Path) -> np.ndarray:
        """Inputs `[N, features]` float32 of the rows of a file like the one that was trained on; raises `DataError`."""
        sheet = read_table(path, self.reading, least=1, without=self.target)
        numbers = {
            column.name: sheet.columns[column.name]
            for column in self.columns
            if column.kind == "numbers" and column.name in sheet.columns
        }
        wanted = self
        if any(self.format.numbers(cells) is None for cells in numbers.values()):
            # Perhaps another program wrote it, with a decimal comma where the training file has a point.
            other = sheet.format(str(path), list(numbers), self.reading)
            if all(other.numbers(cells) is not None for cells in numbers.values()):
                note(f"{path}: {other.written}; the file that was trained on had {self.format.written}")
                wanted = dataclasses.replace(self, format=other)
        return wanted.encode(str(path), sheet.columns, lines=sheet.lines)

    def table(self) -> Table:
        """How each column was read, for people to look at."""
        rows = [column.row() for column in self.columns]
        rows += [(name, "left out", "", why, "") for name, why in self.left_out]
        if self.target:
            rows.append((self.target, "target", "", "", ""))
        title = "How the columns were read" + (f": {self.source}" if self.source else "")
        return Table(title, ("column", "read as", "missing", "values in training", "in place of missing"), tuple(rows))


def place(row: int, lines: Sequence[int] | None) -> str:
    """A row as people count them, with its line in the file."""
    return f"row {row + 1}" + (f" (line {lines[row]})" if lines is not None else "")


def note_large(table: str, name: str, numbers: np.ndarray) -> None:
    """Say where a column's numbers are beyond those that float64, in which cells are read, tells apart (nanoseconds, say)."""
    if np.abs(numbers[np.isfinite(numbers)]).max(initial=0) >= LARGEST_EXACT:
        note(
            f"{table}: column {name!r} has numbers beyond 2^53, which lose their last digits; subtract their first value in "
            f"the file, or write them in larger units"
        )


def check_infinite(table: str, name: str, numbers: np.ndarray, lines: Sequence[int] | None) -> None:
    """Raise `DataError` naming the first row whose number is infinite."""
    if np.isinf(numbers).any():
        row = int(np.flatnonzero(np.isinf(numbers))[0])
        raise DataError(f"{table}: column {name!r} is infinite in {place(row, lines)}; remove or fill it")
