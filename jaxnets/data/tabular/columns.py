"""Encodes the columns of a table as features, with statistics of the training rows.

Everything here is plain data, so that it can be saved with a run. `N` rows.
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
    """A remark about new rows."""

    new: bool
    """Whether it is about unseen words or gaps; False: about a number outside the training range."""
    text: str


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: numbers or dates, which are standardised, or words, which become one 0/1 feature each."""

    name: str
    """Name in the table's header."""
    words: tuple[str, ...] | None = None
    """The words of the training rows, with "" if there was a missing cell; None for numbers."""
    median: float = 0.0
    """Fills missing numbers."""
    mean: float = 0.0
    """Subtracted from the numbers."""
    std: float = 1.0
    """Divisor of the numbers."""
    least: float | None = None
    """The smallest number of the training rows; None if unknown."""
    most: float | None = None
    """The largest number of the training rows; None if unknown."""
    missing: int = 0
    """Number of missing cells in the training rows."""
    dates: bool = False
    """Whether the numbers are dates, as days since 1970-01-01."""

    @property
    def kind(self) -> str:
        """The kind: "words", "dates" or "numbers"."""
        return "words" if self.words is not None else "dates" if self.dates else "numbers"

    def encode(
        self, table: str, values: Any, format: CellFormat, lines: Sequence[int] | None, remarks: list[Remark]
    ) -> np.ndarray:
        """Features `[N, k]` float64; adds to `remarks` what training has not seen.

        Args:
            table: name of the table, for messages.
            values: cells: text, numbers, or a mix of both with None and NaN.
            format: the notation of text cells.
            lines: line number in the file of each row; None for tables in memory.
            remarks: list that receives the remarks.

        Raises:
            DataError: a word among numbers, or an infinite number.
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
            means = "missing" if self.missing else "missing, but in no training row"
            instead = f"the median {self._shown(self.median)} is used"
            remarks.append(Remark(not self.missing, f"{gaps.sum()} {of} {means}; {instead}"))
        if self.least is not None and self.most is not None:
            outside = np.flatnonzero((numbers < self.least) | (numbers > self.most))
            if outside.size:
                means = f"outside the training range, {self._shown(self.least)} to {self._shown(self.most)}"
                remarks.append(Remark(False, f"{outside.size} {of} {means} (e.g. {self._shown(numbers[outside[0]])})"))
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
                    f"({listed}); all their word features are 0",
                )
            )
        if gaps := int((cells == "").sum()):
            new = "" not in self.words
            means = ", but in no training row; all its word features are 0" if new else ""
            remarks.append(Remark(new, f"{gaps} of {len(cells)} rows: column {self.name!r} is missing{means}"))
        return features.astype(np.float64)

    def row(self) -> tuple[str, ...]:
        """Name, kind, missing cells, values and fill value, as cells of a printed table."""
        if self.words is None:
            known = self.least is not None and self.most is not None
            values = f"{self._shown(self.least)} to {self._shown(self.most)}" if known else ""
            return self.name, self.kind, str(self.missing), values, f"median {self._shown(self.median)}"
        words = [word for word in self.words if word]
        values = f"{len(words)}: {', '.join(words[:6])}{', ...' if len(words) > 6 else ''}"
        return self.name, "words", str(self.missing), values, "its own feature" if "" in self.words else "no word"

    def _shown(self, value: float | None) -> str:
        if self.dates and value is not None:
            return str(np.datetime64(round(value * 86400), "s")).removesuffix("T00:00:00")
        return "" if value is None else f"{value:.6g}"


@dataclasses.dataclass(frozen=True)
class Ratio:
    """An extra column: one column of numbers divided by another."""

    name: str
    over: str
    under: str

    def of(self, columns: Mapping[str, Any], format: CellFormat) -> np.ndarray:
        """Ratios `[N]` float64, NaN if one of the two is missing; raises `KeyError`, `DataError`."""
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
    """The input columns of a table, and how the table was read."""

    columns: tuple[Column, ...]
    """The columns in the order of the features."""
    ratios: tuple[Ratio, ...] = ()
    """Columns that are computed from others."""
    format: CellFormat = CellFormat()
    """The notation of text cells."""
    reading: Reading = Reading()
    """The dialect fields that were given."""
    target: str = ""
    """The predicted column; new rows need not have it."""
    source: str = ""
    """The file and its detected dialect."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Other columns of the file, and why they are not features."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names along the last dim of the inputs: a column of numbers, or `column=word`."""
        return tuple(
            name
            for column in self.columns
            for name in ([column.name] if column.words is None else [f"{column.name}={word}" for word in column.words])
        )

    def encode(self, table: str, given: Any, *, lines: Sequence[int] | None = None) -> np.ndarray:
        """Inputs `[N, features]` float32 for rows of a table; other columns are not read.

        One note counts what training has not seen: words, missing cells, numbers outside the training range.

        Args:
            table: name of the table, for messages.
            given: columns by name: a dict of sequences, a pandas or Polars data frame, a structured array, or a list of rows
                that are dicts. Cells are text as in a file, numbers, booleans, dates, or None and NaN for missing.
            lines: line number in the file of each row.

        Raises:
            DataError: a column is missing, columns differ in length, or a cell does not fit its column.
        """
        remarks: list[Remark] = []
        features = self.features(table, given, remarks, lines=lines)
        if remarks:
            note(f"{table}: " + "; ".join(remark.text for remark in remarks))
        return features

    def features(
        self, table: str, given: Any, remarks: list[Remark], *, lines: Sequence[int] | None = None
    ) -> np.ndarray:
        """Like `encode`, but adds remarks to `remarks` instead of writing a note."""
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
        with np.errstate(over="ignore"):  # the caller checks for overflow
            return np.concatenate(parts, axis=1).astype(np.float32)

    def read(self, path: Path) -> np.ndarray:
        """Inputs `[N, features]` float32 for the rows of a file like the training file; raises `DataError`."""
        sheet = read_table(path, self.reading, least=1, without=self.target)
        numbers = {
            column.name: sheet.columns[column.name]
            for column in self.columns
            if column.kind == "numbers" and column.name in sheet.columns
        }
        wanted = self
        if any(self.format.numbers(cells) is None for cells in numbers.values()):
            # Another program may have written it, e.g. with decimal commas instead of points.
            other = sheet.format(str(path), list(numbers), self.reading)
            if all(other.numbers(cells) is not None for cells in numbers.values()):
                note(f"{path}: {other.written}; the training file had {self.format.written}")
                wanted = dataclasses.replace(self, format=other)
        return wanted.encode(str(path), sheet.columns, lines=sheet.lines)

    def table(self) -> Table:
        """A printable table of how each column was read."""
        rows = [column.row() for column in self.columns]
        rows += [(name, "left out", "", why, "") for name, why in self.left_out]
        if self.target:
            rows.append((self.target, "target", "", "", ""))
        title = "How the columns were read" + (f": {self.source}" if self.source else "")
        return Table(title, ("column", "read as", "missing", "values in training", "in place of missing"), tuple(rows))


def place(row: int, lines: Sequence[int] | None) -> str:
    """A row counted from 1, with its line in the file."""
    return f"row {row + 1}" + (f" (line {lines[row]})" if lines is not None else "")


def note_large(table: str, name: str, numbers: np.ndarray) -> None:
    """Write a note if a column has numbers beyond 2^53, where float64 skips integers (e.g. times in nanoseconds)."""
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
