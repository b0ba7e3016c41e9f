"""Time series with equal steps, cut into windows of past values (inputs) and future values (targets).

Shapes: `N` windows, `C` channels (the columns of the table).
"""

import dataclasses
import gzip
from pathlib import Path
from typing import Literal

import numpy as np

from jaxnets.core.download import Remote, obtain_file
from jaxnets.core.errors import DataError, did_you_mean, note
from jaxnets.core.files import user_path
from jaxnets.data.dataset import Dataset, Source
from jaxnets.data.prepare import fit_standardize
from jaxnets.data.sources.tables import ASSETS
from jaxnets.data.tabular.cells import CellFormat, to_days
from jaxnets.data.tabular.columns import note_large, place
from jaxnets.data.tabular.csv_files import Reading, Sheet, read_table

ETTH1 = "series/ETTh1.csv.gz"
ETTH1_REMOTE = Remote(
    "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
    "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
)
# Columns and origin of each named series.
NAMED = {
    "etth1": (
        ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"),
        "ETTh1, H. Zhou et al. 2021, https://github.com/zhouhaoyi/ETDataset, CC BY-ND 4.0",
    ),
    "airline_passengers": (("Passengers",), "monthly totals 1949 to 1960, Box and Jenkins; bundled"),
    "sunspots": (("SUNACTIVITY",), "yearly means 1700 to 2008, as in statsmodels; bundled"),
}


@dataclasses.dataclass(frozen=True)
class Series(Source, Reading):
    """Windows of a series: the model sees `history` steps and predicts the `horizon` steps after them.

    The rows are split by time into training, validation and test, in this order. A window belongs to the part that holds all
    its targets. Its history may start in the part before; its targets may not, so every test target comes after every
    training row. Means and standard deviations are those of the training rows.
    """

    path: str = "airline_passengers"
    """A .csv or .csv.gz file with rows in order of time; or etth1 (hourly: six loads of a transformer and its oil temperature
    OT), airline_passengers (monthly) or sunspots (yearly)."""
    columns: tuple[str, ...] = ()
    """Columns that are inputs and targets; () takes all columns of a named series."""
    history: int = 24
    """Input steps of a window."""
    horizon: int = 12
    """Steps to predict."""
    parts: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Rows in training, validation and test: shares, or numbers of rows if any is above 1."""
    measure: Literal["test", "validation"] = "test"
    """Which part the test split holds; with "validation", the last part is not read at all."""

    def open(self) -> Dataset:
        """Inputs `[N, history, C]` and targets `[N, horizon, C]`, float64, both in the columns' own units."""
        for name in ("history", "horizon"):
            if getattr(self, name) < 1:
                raise DataError(f"Series.{name} is at least 1, got {getattr(self, name)}")
        name, columns, values, source = self._read()
        train, validation, test = self._rows(name, len(values))
        edges = {
            "train": (0, train),
            "validation": (train, train + validation),
            "test": (train + validation, train + validation + test),
        }
        splits = {}
        for split, part in (("train", "train"), ("test", self.measure), ("validation", "validation")):
            start, stop = edges[part]
            if split != "validation" or (self.measure == "test" and stop - start >= self.horizon):
                splits[split] = self._windows(f"{name}, {part}", values, start, stop)
        return Dataset(
            name=name,
            train=splits["train"],
            test=splits["test"],
            validation=splits.get("validation"),
            target_name=columns[0] if len(columns) == 1 else "value",
            target_kind="series",
            prepare=fit_standardize(values[:train]),
            source=source,
        )

    def _windows(self, name: str, values: np.ndarray, start: int, stop: int) -> dict[str, np.ndarray]:
        """The windows whose targets lie in rows `start` to `stop`; the first target needs a full history before it."""
        first = max(start, self.history)
        count = stop - first - self.horizon + 1
        if count < 1:
            raise DataError(
                f"{name}: rows {start} to {stop} hold no window with {self.horizon} steps to predict and {self.history} "
                f"before them; choose a shorter history or horizon, or a larger part"
            )
        windows = np.lib.stride_tricks.sliding_window_view(
            values[first - self.history : stop], self.history + self.horizon, 0
        )
        windows = windows.swapaxes(1, 2)
        assert len(windows) == count
        # Views of the series: windows share their rows, in float64 as read.
        return {"inputs": windows[:, : self.history], "targets": windows[:, self.history :]}

    def _rows(self, name: str, rows: int) -> tuple[int, int, int]:
        """The number of rows of each part."""
        shares = all(0 <= part <= 1 for part in self.parts)
        counts = [round(part * rows) for part in self.parts] if shares else [round(part) for part in self.parts]
        total = sum(self.parts)
        if shares and abs(total - 1) < 1e-9:
            counts[2] = rows - counts[0] - counts[1]
        whole = shares or all(part == round(part) and part >= 0 for part in self.parts)
        too_much = sum(counts) > rows or (shares and total > 1 + 1e-9)
        if not whole or too_much or counts[0] < 1 or counts[2] < 0 or total <= 0:
            raise DataError(
                f"{name}: parts={self.parts} of {rows} rows; give three shares that add up to 1 at most, or three numbers of "
                f"rows that add up to {rows} at most"
            )
        return counts[0], counts[1], counts[2]

    def _read(self) -> tuple[str, tuple[str, ...], np.ndarray, str]:
        """Name, columns, values `[rows, C]` float64 and source."""
        if self.path in NAMED:
            known, source = NAMED[self.path]
            path = _etth1() if self.path == "etth1" else ASSETS / f"{self.path}.csv"
            name, columns = self.path, self.columns or known
        else:
            path, columns, source = user_path(self.path), self.columns, self.path
            name = path.name.split(".")[0]
            if not path.is_file():
                near = did_you_mean(path.name, [*NAMED, *(p.name for p in path.parent.glob("*.csv*"))])
                raise DataError(f"there is no file {self.path!r}. {near} The named series are {', '.join(NAMED)}")
        sheet = read_table(path, self)
        if not columns:
            raise DataError(f"{name}: name the columns to predict in columns; there are {', '.join(sheet.columns)}")
        _check_order(name, sheet, columns)
        format = sheet.format(name, columns, self)
        return name, columns, np.stack([_numbers(name, column, sheet, format) for column in columns], axis=1), source


def _numbers(name: str, column: str, sheet: Sheet, format: CellFormat) -> np.ndarray:
    if column not in sheet.columns:
        raise DataError(f"{name} has no column {column!r}. {did_you_mean(column, sheet.columns)}")
    cells = sheet.columns[column]
    numbers = format.numbers(cells)
    if numbers is None:
        row = format.odd(cells)[0]
        raise DataError(
            f"{name}: column {column!r} has text, e.g. {cells[row]!r} in {place(row, sheet.lines)}; choose columns of numbers"
        )
    gaps = np.flatnonzero(~np.isfinite(numbers))
    if gaps.size:
        raise DataError(
            f"{name}: column {column!r} is empty or infinite in {gaps.size} rows, the first is "
            f"{place(int(gaps[0]), sheet.lines)}; fill them (e.g. from their neighbours): a window needs every step"
        )
    note_large(name, column, numbers)
    return numbers


def _check_order(name: str, sheet: Sheet, columns: tuple[str, ...]) -> None:
    """Check the order of the rows by the first column of dates: windows take the rows in file order.

    Raises:
        DataError: the rows go from the newest to the oldest, so the past would be predicted from the future.
    """
    for column, cells in sheet.columns.items():
        moments = (
            [to_days(cell) for cell in cells] if column not in columns and to_days(cells[0]) is not None else [None]
        )
        if any(moment is None for moment in moments):
            continue
        back = np.flatnonzero(np.diff(np.array(moments, np.float64)) < 0)
        if 2 * back.size >= len(cells) - 1:
            raise DataError(f"{name}: the dates in {column!r} go back from row to row; put the oldest row first")
        if back.size:
            note(
                f"{name}: the date in {column!r} is earlier than the date before it in {back.size} rows, the first is "
                f"{place(int(back[0]) + 1, sheet.lines)}; windows take the rows in the order of the file"
            )
        return


def _etth1() -> Path:
    return obtain_file(ETTH1, ETTH1_REMOTE, lambda content: gzip.compress(content, mtime=0))
