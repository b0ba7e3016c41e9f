"""The kind of a column and the statistics of its training rows, computed once when a model is trained."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxnets.core.errors import DataError, did_you_mean, note
from jaxnets.core.scaling import usable_deviation
from jaxnets.data.tabular.cells import BOOLEANS, DATE_LIKE, LEADING_ZERO, WITH_SIGN, CellFormat, candidates, to_days
from jaxnets.data.tabular.columns import Column, check_infinite, note_large, place
from jaxnets.data.tabular.csv_files import Sheet

MOST_WORDS = 100


@dataclasses.dataclass(frozen=True)
class Kinds:
    """Columns with a given kind; the kind of the others is detected from their cells."""

    numbers: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()

    def check(self, table: str, columns: Sequence[str], target: str, ignore: Sequence[str]) -> None:
        """Raise `DataError` for a column that does not exist or is named in two fields."""
        named: dict[str, str] = {}
        for field, names in (*dataclasses.asdict(self).items(), ("ignore", ignore)):
            for name in names:
                if name not in columns:
                    what = "to ignore" if field == "ignore" else f"for {field}"
                    raise DataError(f"{table} has no column {name!r} {what}. {did_you_mean(name, columns)}")
                if name in named:
                    raise DataError(f"{table}: column {name!r} is named in {named[name]} and in {field}; choose one")
                if name == target and field != "ignore":
                    raise DataError(f"{table}: {name!r} in {field} is the target; give its kind in the field kind")
                named[name] = field

    def of(self, name: str) -> str:
        """The field that names a column, or ""."""
        return next((field for field, names in dataclasses.asdict(self).items() if name in names), "")


def learn(table: str, name: str, sheet: Sheet, format: CellFormat, train: np.ndarray, kind: str) -> Column | None:
    """Fit a column: its kind from the cells of all rows, its statistics from the training rows.

    Args:
        table: name of the table, for messages.
        name: name of the column.
        sheet: the table.
        format: the notation of its cells.
        train: row numbers of the training split.
        kind: "numbers", "words" or "dates"; "" detects it.

    Returns:
        The column; None, with a note, if no training row has a value.

    Raises:
        DataError: cells do not fit the kind, there are too many words, or a number is infinite.
    """
    cells, lines = sheet.columns[name], sheet.lines
    if all(format.is_missing(cells[i]) for i in train):
        note(f"{table}: column {name!r} is missing in all training rows, and is left out")
        return None
    if kind in ("", "numbers"):
        numbers = format.numbers(cells)
        if numbers is None and kind:
            odd = format.odd(cells)
            raise DataError(
                f"{table}: column {name!r} is named in numbers, but {listed(cells, odd, lines)}; correct them, name "
                f"them in missing (which replaces the usual markers), or name the column in words"
            )
        if numbers is not None and (kind or not any(map(LEADING_ZERO.fullmatch, cells))):
            if not kind and len(cells) > 2 and numbers[0] in (0, 1) and (np.diff(numbers) == 1).all():
                note(
                    f"{table}: column {name!r} counts the rows ({cells[0]}, {cells[1]}, ...); leave it out with "
                    f"ignore if it is a row number"
                )
            return from_numbers(table, name, numbers, train, lines)
    if kind in ("", "dates"):
        moments = [np.nan if format.is_missing(cell) else to_days(cell) for cell in cells]
        odd = [i for i, moment in enumerate(moments) if moment is None]
        if not odd:
            if not kind:
                note(
                    f"{table}: column {name!r} has dates, which are read as numbers of days; name it in words or ignore "
                    f"to change that"
                )
            return from_numbers(table, name, np.array(moments, np.float64), train, lines, dates=True)
        if kind:
            raise DataError(
                f"{table}: column {name!r} is named in dates, but {listed(cells, odd, lines)}; write dates as "
                f"2024-05-31 or 2024-05-31 18:30"
            )
    doubt = "" if kind else doubt_about_words(table, name, cells, format, lines, sheet.delimiter)
    return _from_words(table, name, cells, format, train, doubt)


def from_numbers(
    table: str, name: str, numbers: np.ndarray, train: np.ndarray, lines: Sequence[int], *, dates: bool = False
) -> Column:
    """A column of numbers `[N]` float64, NaN for missing; raises `DataError` for an infinite one."""
    check_infinite(table, name, numbers, lines)
    note_large(table, name, numbers)
    values = numbers[train]
    known = values[~np.isnan(values)]
    median = float(np.median(known))
    filled = np.where(np.isnan(values), median, values)
    with np.errstate(over="ignore", invalid="ignore"):
        std = float(usable_deviation(filled.std(), np.abs(filled).max()))
    if not np.isfinite(std):
        largest = np.abs(filled).max()
        raise DataError(f"{table}: column {name!r} has numbers up to {largest:g}, too large to standardise; rescale it")
    return Column(
        name,
        median=median,
        mean=float(filled.mean()),
        std=std,
        least=float(known.min()),
        most=float(known.max()),
        missing=len(values) - len(known),
        dates=dates,
    )


def _from_words(table: str, name: str, cells: list[str], format: CellFormat, train: np.ndarray, doubt: str) -> Column:
    # One boolean may have several spellings, as in pandas.
    same = BOOLEANS if all(cell in BOOLEANS or format.is_missing(cell) for cell in cells) else {}
    read = ["" if _missing_word(cell, cells, format) else same.get(cell, cell) for cell in cells]
    words = sorted({read[i] for i in train})
    if len(words) > MOST_WORDS:
        raise DataError(
            f"{table}: column {name!r} has {len(words)} different words, more than the {MOST_WORDS} that can be "
            f"features; leave it out with ignore{doubt and '. ' + doubt}"
        )
    if doubt:
        note(f"{table}: {doubt}")
    if len(words) == len(train) > 2:
        note(
            f"{table}: column {name!r} has a different word in every row, so it cannot help on new rows; leave it "
            f"out with ignore"
        )
    return Column(name, tuple(words), missing=sum(read[i] == "" for i in train))


def _missing_word(cell: str, cells: list[str], format: CellFormat) -> bool:
    """Whether a cell in a column of words is missing; "-" is a word if the column also has "+"."""
    return format.is_missing(cell) and not (cell == "-" and "+" in cells)


def doubt_about_words(
    table: str,
    name: str,
    cells: list[str],
    format: CellFormat,
    lines: Sequence[int],
    delimiter: str,
    remedy: str = "name the column in words if that is right",
) -> str:
    """Why a column that is read as words may be something else; "" if there is no doubt.

    Raises:
        DataError: the column has numbers in a notation that is not supported.
    """
    known = [cell for cell in cells if not format.is_missing(cell)]
    different = sorted(set(known))
    formats = [dataclasses.replace(format, decimal=point, thousands=sign) for point, sign in candidates(delimiter)]
    counts = [sum(one.number(cell) is not None for cell in different) for one in formats]
    numbers = sum(format.number(cell) is not None for cell in different)
    signed = [match for cell in different if (match := WITH_SIGN.fullmatch(cell))]
    signed = [
        match for match in signed if any(one.number((match["a"] or match["b"]).strip()) is not None for one in formats)
    ]
    if signed and 2 * (len(signed) + numbers) > len(different):
        raise DataError(
            f"{table}: column {name!r} writes {signed[0]['before'] or signed[0]['after']!r} next to its numbers "
            f"(e.g. {signed[0][0]!r}); remove the sign, or {remedy}"
        )
    odd = format.odd(cells)
    zeros = [i for i, cell in enumerate(cells) if LEADING_ZERO.fullmatch(cell)]
    if zeros and not odd:
        return (
            f"column {name!r} is taken as words, because {cells[zeros[0]]!r} in {place(zeros[0], lines)} begins with 0 "
            f"like an identifier; name it in numbers if it has numbers, or {remedy}"
        )
    if max(counts) > numbers and 2 * max(counts) > len(different):
        raise DataError(
            f"{table}: column {name!r} has numbers with {formats[counts.index(max(counts))].written} "
            f"({cells[odd[0]]!r} in {place(odd[0], lines)}), but the file has {format.written}; use one sign in the "
            f"whole file, or {remedy}"
        )
    if len(known) > 3 and 2 * len(odd) < len(known):
        return (
            f"column {name!r} is a mix and taken as words: {len(known) - len(odd)} cells are numbers and {len(odd)} "
            f"are not, {listed(cells, odd, lines)}; correct those, or name them in missing (which replaces the usual "
            f"markers), or {remedy}"
        )
    if known and all(map(DATE_LIKE.fullmatch, different)):
        return f"column {name!r} is taken as words; if {known[0]!r} is a date, write it as 2024-05-31, or {remedy}"
    return ""


def listed(cells: Sequence[str], rows: Sequence[int], lines: Sequence[int]) -> str:
    """The first few of these cells, with their rows."""
    return ", ".join(f"{place(i, lines)} has {cells[i][:40]!r}" for i in rows[:3]) + (", ..." if len(rows) > 3 else "")
