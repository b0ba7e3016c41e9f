"""Reads table cells in memory: text, numbers, booleans, dates, None and NaN, in lists, arrays and data frames."""

import datetime
import decimal
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.data.tabular.cells import BOOLEANS, CellFormat, days, to_days


def by_name(table: str, given: Any) -> dict[str, Any]:
    """Columns by name, from any table that `Columns.encode` takes.

    Raises:
        DataError: the object is not a table, or a column is a single value.
    """
    if isinstance(given, np.ndarray) and given.dtype.names:
        found = {name: given[name] for name in given.dtype.names}
    elif isinstance(given, Sequence) and given and all(isinstance(row, Mapping) for row in given):
        names = dict.fromkeys(name for row in given for name in row)
        found = {name: [row.get(name) for row in given] for name in names}
    elif isinstance(given, Mapping):
        found = dict(given)
    elif hasattr(given, "columns") and hasattr(given, "__getitem__"):  # a data frame of pandas or Polars
        found = {name: given[name] for name in given.columns}
    else:
        raise DataError(
            f"{table} is a {type(given).__name__}, not a table; give a data frame, a dict of columns, or a list of rows "
            f"that are dicts"
        )
    cells: dict[str, Any] = {}
    for name, values in found.items():
        if isinstance(values, str | bytes) or not hasattr(values, "__len__") or not hasattr(values, "__iter__"):
            raise DataError(
                f"{table}: column {name!r} is the single value {values!r}; give one cell for each row, [{values!r}]"
            )
        key = str(name).strip()
        if key in cells:
            raise DataError(f"{table} has two columns {key!r}; give each its own name")
        values = values.to_numpy() if hasattr(values, "to_numpy") else values
        cells[key] = values[:, 0] if getattr(values, "shape", ())[1:] == (1,) else values
    return cells


def is_gap(cell: Any) -> bool:
    """Whether a cell that is not text is missing: None, NaN, NaT, pandas' NA, or masked."""
    if cell is None or cell is np.ma.masked or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(cell, np.datetime64):
        return bool(np.isnat(cell))
    return isinstance(cell, numbers.Number | decimal.Decimal) and bool(cell != cell)


def as_numbers(values: Any, format: CellFormat) -> tuple[np.ndarray, list[int]]:
    """Numbers `[N]` float64, NaN for missing, and the rows that hold something else."""
    array = _array(values)
    if array is not None and array.dtype.kind in "biuf":
        return format.without_missing(np.ma.filled(array.astype(np.float64), np.nan)), []
    if set(map(type, values)) <= {str}:
        cells = list(map(str.strip, values))
        found = format.numbers(cells)
        return (found, []) if found is not None else (np.empty(0), format.odd(cells))
    cells = [_text(cell) for cell in values]
    found, odd = _one_by_one(
        cells, lambda cell: format.number(cell) if isinstance(cell, str) else _number(cell), format
    )
    return format.without_missing(found), odd


def as_days(values: Any, format: CellFormat) -> tuple[np.ndarray, list[int]]:
    """Days since 1970-01-01 `[N]` float64, NaN for missing, and the rows that hold something else."""
    array = _array(values)
    if array is not None and array.dtype.kind == "M":
        moments = np.ma.getdata(array).astype("datetime64[us]")
        found = moments.astype(np.int64) / 86_400e6
        return np.where(np.isnat(moments) | np.ma.getmaskarray(array), np.nan, found), []

    def one(cell: Any) -> float | None:
        if isinstance(cell, np.datetime64):
            cell = cell.astype("datetime64[us]").item()
        if isinstance(cell, datetime.date):  # a pandas Timestamp is one too
            return days(cell)
        return to_days(cell) if isinstance(cell, str) else None

    return _one_by_one([_text(cell) for cell in values], one, format)


def as_words(values: Any, format: CellFormat, known: Sequence[str]) -> list[str]:
    """Words `[N]`, "" for missing. A number or a boolean becomes the word in `known` with the same value."""
    words, memory = set(known), {}
    found = []
    for cell in values:
        key = (type(cell), cell) if isinstance(cell, str | int | float | np.generic) else None
        if key is None or key not in memory:
            word = _word(_text(cell), format, words)
            if key is None:
                found.append(word)
                continue
            memory[key] = word
        found.append(memory[key])
    return found


def _word(cell: Any, format: CellFormat, words: set[str]) -> str:
    if isinstance(cell, str):
        if cell in words:
            return cell
        if format.is_missing(cell):
            return ""
        return BOOLEANS[cell] if BOOLEANS.get(cell) in words else cell
    if is_gap(cell):
        return ""
    choices = [str(cell)]
    if isinstance(cell, bool | np.bool_):
        choices = [str(bool(cell)), *(word for word, meant in BOOLEANS.items() if meant == str(bool(cell)))]
    elif isinstance(cell, numbers.Real) and float(cell).is_integer():
        # A data frame stores a column of integers with gaps as floats.
        choices = [str(cell) if isinstance(cell, numbers.Integral) else f"{float(cell):.0f}", repr(float(cell))]
    return next((word for word in choices if word in words), choices[0])


def _array(values: Any) -> np.ndarray | None:
    """The column as a typed array (number, boolean or datetime), masks included; None for other columns."""
    if not hasattr(values, "dtype"):
        return None
    array = values if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
    return array if array.ndim == 1 and array.dtype.kind in "biufM" else None


def _text(cell: Any) -> Any:
    """Text stripped, bytes decoded and stripped; other cells unchanged."""
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    return cell.strip() if isinstance(cell, str) else cell


def _number(cell: Any) -> float | None:
    return float(cell) if isinstance(cell, numbers.Real | decimal.Decimal | np.bool_) else None


def _one_by_one(cells: list[Any], read: Any, format: CellFormat) -> tuple[np.ndarray, list[int]]:
    found, odd = np.full(len(cells), np.nan), []
    for i, cell in enumerate(cells):
        if is_gap(cell) or (isinstance(cell, str) and format.is_missing(cell)):
            continue
        value = read(cell)
        if value is None:
            odd.append(i)
        else:
            found[i] = value
    return found, odd
