"""The target column of a table: classes, named as in the table, or numbers."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxnets.core.errors import DataError, note
from jaxnets.data.tabular.cells import LEADING_ZERO, CellFormat
from jaxnets.data.tabular.column_kinds import doubt_about_words
from jaxnets.data.tabular.columns import note_large, place
from jaxnets.data.tabular.csv_files import Sheet

Kind = Literal["auto", "class", "number"]
# Whole numbers are taken as classes if there are at most this many different ones.
FEW = 20


def read_target(table: str, name: str, sheet: Sheet, format: CellFormat, kind: Kind) -> np.ndarray:
    """The targets of a table's rows `[N]`: class names, or float64 numbers.

    A class has the name that the cells have. Two spellings of one number are one class ("1" and "1.0"), unless a cell begins
    with 0 like an identifier ("007"): then each spelling is a class.

    Raises:
        DataError: targets are missing or infinite, words where numbers are required, or a different class in every row.
    """
    cells, lines = sheet.columns[name], sheet.lines
    _check_missing(table, name, cells, lines, format)
    numbers = format.numbers(cells)
    if kind == "number" and numbers is None:
        odd = format.odd(cells)
        raise DataError(
            f"{table}: kind='number', but the target {name!r} has words, e.g. {cells[odd[0]]!r} in "
            f"{place(odd[0], lines)}; correct {len(odd)} cells, or choose kind='class'"
        )
    if numbers is not None and np.isinf(numbers).any():
        row = int(np.flatnonzero(np.isinf(numbers))[0])
        raise DataError(f"{table}: the target {name!r} is infinite in {place(row, lines)}; remove or fill it")
    zeros = any(map(LEADING_ZERO.fullmatch, cells))
    few = numbers is not None and bool((numbers == numbers.round()).all()) and len(np.unique(numbers)) <= FEW
    if numbers is not None and (kind == "number" or (kind == "auto" and not few and not zeros)):
        note_large(table, name, numbers)
        return numbers
    if kind == "auto" and (numbers is None or zeros):
        remedy = "choose kind='class' if they are class names"
        if doubt := doubt_about_words(table, name, cells, format, lines, sheet.delimiter, remedy):
            note(f"{table}, target: {doubt}")
    labels = _same_numbers(table, name, cells, format) if numbers is not None and not zeros else np.array(cells, object)
    _check_classes(table, name, labels, kind, numbers is not None)
    return labels.astype(str)


def _check_missing(table: str, name: str, cells: list[str], lines: Sequence[int], format: CellFormat) -> None:
    # "-" is a class if the column also has "+".
    empty = [i for i, cell in enumerate(cells) if format.is_missing(cell) and not (cell == "-" and "+" in cells)]
    if not empty:
        return
    cell = cells[empty[0]]
    spelled = f", which has {cell!r}" if cell else ""
    remedy = f"; if {cell!r} is a class, name the markers of missing cells in missing" if cell else ""
    raise DataError(
        f"{table}: the target {name!r} is empty (or NaN) in {len(empty)} rows, the first in "
        f"{place(empty[0], lines)}{spelled}; remove or fill them{remedy}"
    )


def _same_numbers(table: str, name: str, cells: list[str], format: CellFormat) -> np.ndarray:
    """Class names that are numbers: the shortest spelling of each number, compared exactly."""
    exact = {cell: format.exact(cell) for cell in set(cells)}
    shortest: dict[object, str] = {}
    for cell in sorted(exact, key=lambda cell: (len(cell), cell)):
        shortest.setdefault(exact[cell], cell)
    merged = [cell for cell in sorted(exact) if shortest[exact[cell]] != cell]
    if merged:
        note(
            f"{table}: the target {name!r} has {merged[0]!r} and {shortest[exact[merged[0]]]!r}, which are taken as "
            f"one class"
        )
    return np.array([shortest[exact[cell]] for cell in cells], object)


def _check_classes(table: str, name: str, labels: np.ndarray, kind: Kind, are_numbers: bool) -> None:
    names = sorted(set(labels))
    if len(names) == len(labels) > 2:
        raise DataError(
            f"{table}: the target {name!r} has {len(names)} different values in {len(labels)} rows, so every row "
            f"would be its own class ({', '.join(map(repr, names[:3]))}, ...); choose another target"
            + (", or kind='number'" if are_numbers else "")
        )
    if len(names) * 2 > len(labels) > 4:
        note(f"{table}: the target {name!r} has {len(names)} classes in {len(labels)} rows")
    if len(names) == 1:
        note(f"{table}: the target {name!r} is {names[0]!r} in every row, so there is nothing to learn")
    if kind == "auto" and are_numbers and len(names) > 2 and set(names) != {str(i) for i in range(len(names))}:
        note(
            f"{table}: the target {name!r} has {len(names)} different whole numbers ({', '.join(names[:3])}, ...), "
            f"which are taken as classes; choose kind='number' for a regression, or kind='class' to silence this note"
        )
    alike: dict[str, str] = {}
    for word in names:
        other = alike.setdefault(" ".join(word.lower().split()), word)
        if other != word and not are_numbers:
            note(
                f"{table}: the target {name!r} has the classes {other!r} and {word!r}, which differ only in "
                f"capitals or spaces"
            )


def class_names(values: np.ndarray) -> np.ndarray:
    """Labels of any dtype as class names `[N]` str; whole floats are written without a point.

    Raises:
        DataError: labels are NaN or infinite, or not of a dtype that can name classes.
    """
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8")
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise DataError(f"the label of row {row + 1} is {values[row]}; remove or fill it")
        return np.array([str(int(v)) if float(v).is_integer() else str(v) for v in values])
    if values.dtype.kind not in "iubU":
        raise DataError(f"labels of dtype {values.dtype} cannot name classes; give integers or text")
    return values.astype(str)
