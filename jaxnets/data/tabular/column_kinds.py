"""Of what kind a column is, and what its training rows teach: once, when a model is trained."""

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
    """Columns whose kind is said; that of all others is found from their cells."""

    numbers: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()

    def check(self, table: str, columns: Sequence[str], target: str, ignore: Sequence[str]) -> None:
        """Raise `DataError` for a column that is not there, or of which two things are said."""
        said: dict[str, str] = {}
        for field, names in (*dataclasses.asdict(self).items(), ("ignore", ignore)):
            for name in names:
                if name not in columns:
                    what = "to ignore" if field == "ignore" else f"for {field}"
                    raise DataError(f"{table} has no column {name!r} {what}. {did_you_mean(name, columns)}")
                if name in said:
                    raise DataError(f"{table}: column {name!r} is named in {said[name]} and in {field}; choose one")
                if name == target and field != "ignore":
                    raise DataError(f"{table}: {name!r} in {field} is the target; say its kind with kind")
                said[name] = field

    def of(self, name: str) -> str:
        """The field that names a column, or ""."""
        return next((field for field, names in dataclasses.asdict(self).items() if name in names), "")


def learn(table: str, name: str, sheet: Sheet, format: CellFormat, train: np.ndarray, kind: str) -> Column | None:
    """A column from the cells of all rows, which show its kind, and the values of the training rows.

    Args:
        table: its name, for messages.
        name: of the column.
        sheet: the table.
        format: how cells are written.
        train: numbers of the training rows.
        kind: "numbers", "words" or "dates", or "" to find it.

    Returns:
        None where no training row has a value, which a note says.

    Raises:
        DataError: cells that are not of the kind, too many words, or infinite numbers.
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
                f"them in missing (which then holds all words for missing), or take the column as words"
            )
        if numbers is not None and (kind or not any(map(LEADING_ZERO.fullmatch, cells))):
            if not kind and len(cells) > 2 and numbers[0] in (0, 1) and (np.diff(numbers) == 1).all():
                note(
                    f"{table}: column {name!r} counts the rows ({cells[0]}, {cells[1]}, ...); leave it out with "
                    f"ignore if it is a number of the row"
                )
            return from_numbers(table, name, numbers, train, lines)
    if kind in ("", "dates"):
        moments = [np.nan if format.is_missing(cell) else to_days(cell) for cell in cells]
        odd = [i for i, moment in enumerate(moments) if moment is None]
        if not odd:
            if not kind:
                note(
                    f"{table}: column {name!r} is of dates, and taken as numbers of days; words and ignore say otherwise"
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
    # One truth value may be spelled in several ways, as pandas has it.
    same = BOOLEANS if all(cell in BOOLEANS or format.is_missing(cell) for cell in cells) else {}
    read = ["" if _missing_word(cell, cells, format) else same.get(cell, cell) for cell in cells]
    words = sorted({read[i] for i in train})
    if len(words) > MOST_WORDS:
        raise DataError(
            f"{table}: column {name!r} has {len(words)} different words, at most {MOST_WORDS} make sense as "
            f"features; leave it out with ignore{doubt and '. ' + doubt}"
        )
    if doubt:
        note(f"{table}: {doubt}")
    if len(words) == len(train) > 2:
        note(
            f"{table}: column {name!r} has another word in every row, which says nothing of new rows; leave it out "
            f"with ignore"
        )
    return Column(name, tuple(words), missing=sum(read[i] == "" for i in train))


def _missing_word(cell: str, cells: list[str], format: CellFormat) -> bool:
    """Whether a cell among words is missing; a "-" beside a "+" is a word."""
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
    """Why a column that is taken as words may be meant otherwise, or "".

    Raises:
        DataError: a column of numbers written in a way that is not read, which nobody means as words.
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
            f"{table}: column {name!r} writes {signed[0]['before'] or signed[0]['after']!r} beside its numbers "
            f"({signed[0][0]!r}, say); remove the sign, or {remedy}"
        )
    odd = format.odd(cells)
    zeros = [i for i, cell in enumerate(cells) if LEADING_ZERO.fullmatch(cell)]
    if zeros and not odd:
        return (
            f"column {name!r} is taken as words, for {cells[zeros[0]]!r} in {place(zeros[0], lines)} begins with 0 as "
            f"identifiers do; name it in numbers if it is of numbers, or {remedy}"
        )
    if max(counts) > numbers and 2 * max(counts) > len(different):
        raise DataError(
            f"{table}: column {name!r} is of numbers with {formats[counts.index(max(counts))].written} "
            f"({cells[odd[0]]!r} in {place(odd[0], lines)}), but the file with {format.written}; write one sign in the "
            f"whole file, or {remedy}"
        )
    if len(known) > 3 and 2 * len(odd) < len(known):
        return (
            f"column {name!r} is a mix and taken as words: {len(known) - len(odd)} cells are numbers and {len(odd)} "
            f"are not, {listed(cells, odd, lines)}; correct those, or name them in missing (which then holds all words "
            f"for missing), or {remedy}"
        )
    if known and all(map(DATE_LIKE.fullmatch, different)):
        return f"column {name!r} is taken as words; if {known[0]!r} is a date, write it as 2024-05-31, or {remedy}"
    return ""


def listed(cells: Sequence[str], rows: Sequence[int], lines: Sequence[int]) -> str:
    """The first few of these cells, with their rows."""
    return ", ".join(f"{place(i, lines)} has {cells[i][:40]!r}" for i in rows[:3]) + (", ..." if len(rows) > 3 else "")
