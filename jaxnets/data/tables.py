"""Tables: a `.csv` (or `.csv.gz`) or `.npz` file of your own, and the California housing census.

Columns that are numbers are standardised, with the median in place of empty cells; columns of words become one 0/1
feature for each word. Everything is learned from the training rows alone.
"""

import csv
import dataclasses
import gzip
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from jaxnets.data.arrays import from_arrays
from jaxnets.data.columns import EMPTY, Column, Columns, to_numbers
from jaxnets.data.dataset import Dataset, Source, Standardize
from jaxnets.data.download import Remote, cache_directory, download, locate, read_arrays
from jaxnets.errors import DataError, did_you_mean

ASSETS = Path(__file__).parent / "assets"
BUNDLED = ("iris", "wine")


@dataclasses.dataclass(frozen=True)
class Tabular(Source):
    """A table from a file: one row an example, one column the target."""

    path: str = "iris"
    """A .csv, .csv.gz or .npz file, or one of the bundled tables: iris, wine."""
    target: str = ""
    """The column to predict; may be left out for .npz files with `targets` or `y`, and for the bundled tables."""
    kind: Literal["auto", "class", "number"] = "auto"
    """What the target is; auto takes words and few distinct whole numbers as classes, other numbers as numbers."""
    holdout: float = 0.2
    """Share of the rows set aside for the test, in (0, 1)."""
    split_seed: int = 0
    """Seed of that split."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out."""
    only: tuple[str, ...] = ()
    """Classes to keep, by name; the rows of all others are left out. None named keeps all."""

    def open(self) -> Dataset:
        """Inputs `[N, features]` float32; labels or real targets."""
        if self.path in BUNDLED:
            return self._from_npz(ASSETS / f"{self.path}.npz", self.path)
        path = Path(self.path).expanduser()
        if not path.is_file():
            near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
            raise DataError(f"there is no file {self.path!r}. {near} The bundled tables are {' and '.join(BUNDLED)}")
        if path.suffix == ".npz":
            return self._from_npz(path, path.stem)
        if path.name.endswith((".csv", ".csv.gz")):
            return self._from_columns(read_csv(path), path.name.split(".")[0], str(path))
        raise DataError(f"{self.path!r} is neither .csv, .csv.gz nor .npz; convert it to one of these")

    def _from_npz(self, path: Path, name: str) -> Dataset:
        arrays = read_arrays(path)
        keys = [key for key in ("inputs", "x", "X", "data") if key in arrays]
        targets = [key for key in (self.target, "targets", "y", "target") if key and key in arrays]
        if not keys or not targets or (self.target and self.target not in arrays):
            raise DataError(
                f"{path} holds {', '.join(arrays)}; expected inputs under 'inputs' or 'x' and targets under 'targets', 'y' "
                f"or the name given as target ({self.target or 'none given'})"
            )
        y, inputs = arrays[targets[0]], arrays[keys[0]]
        if self.ignore:
            raise DataError(f"{name}: ignore names columns of a .csv file; an .npz file has none")
        if y.ndim != 1 or len(y) != len(inputs):
            raise DataError(f"{path}: {targets[0]} has shape {y.shape} for {len(inputs)} inputs; give one for each")
        if self.kind == "number":
            if y.dtype.kind not in "iuf":
                raise DataError(f"{name}: kind='number', but the targets have dtype {y.dtype}")
            y = y.astype(np.float32)
        elif self.kind == "class" and y.dtype.kind == "f":
            y = np.array([f"{value:g}" for value in y])
        if "target_names" in arrays and y.dtype.kind in "iu":
            y = arrays["target_names"].astype(str)[y]
        keep = self._kept(name, y)
        return from_arrays(
            inputs[keep],
            y[keep],
            holdout=self.holdout,
            seed=self.split_seed,
            name=name,
            target_name=self.target or "class",
        )

    def _kept(self, name: str, targets: np.ndarray) -> np.ndarray:
        """Which rows stay, `[N]` bool."""
        words = targets.astype(str)
        for word in self.only:
            if word not in words:
                raise DataError(f"{name} has no class {word!r} to keep. {did_you_mean(word, set(words.tolist()))}")
        return np.isin(words, self.only) if self.only else np.ones(len(words), bool)

    def _from_columns(self, columns: dict[str, list[str]], name: str, source: str) -> Dataset:
        if self.target not in columns:
            if not self.target:
                raise DataError(f"{name}: say which column to predict with target; there are {', '.join(columns)}")
            raise DataError(f"{name} has no column {self.target!r}. {did_you_mean(self.target, columns)}")
        for column in self.ignore:
            if column not in columns:
                raise DataError(f"{name} has no column {column!r} to ignore. {did_you_mean(column, columns)}")
        targets = self._targets(name, columns[self.target])
        keep = np.flatnonzero(self._kept(name, targets))
        targets = targets[keep]
        columns = {column: [values[i] for i in keep] for column, values in columns.items()}
        rows = len(targets)
        count = round(rows * self.holdout) if 0 < self.holdout < 1 else 0
        if not 0 < count < rows:
            raise DataError(f"{name}: holdout={self.holdout} of {rows} rows leaves an empty split")
        order = np.random.default_rng(self.split_seed).permutation(rows)
        test, train = order[:count], order[count:]
        learned = Columns(
            tuple(
                Column.learn(name, column, values, train)
                for column, values in columns.items()
                if column != self.target and column not in self.ignore
            )
        )
        if not learned.columns:
            raise DataError(f"{name} has no column left to predict {self.target!r} from")
        x = learned.encode(name, columns)
        # The encoder has standardised already, from the training rows.
        dataset = from_arrays(
            x[train],
            targets[train],
            test=(x[test], targets[test]),
            name=name,
            standardize=False,
            target_name=self.target,
        )
        return dataclasses.replace(dataset, prepare=Standardize(), source=source, columns=learned)

    def _targets(self, name: str, values: list[str]) -> np.ndarray:
        numbers = to_numbers(values)
        empty = [i for i, value in enumerate(values) if value.strip().lower() in EMPTY]
        if empty:
            raise DataError(
                f"{name}: the target {self.target!r} is empty (or NaN) in {len(empty)} rows, the first in row {empty[0] + 1}; "
                f"remove or fill them"
            )
        if numbers is not None and not np.isfinite(numbers).all():
            row = int(np.flatnonzero(~np.isfinite(numbers))[0]) + 1
            raise DataError(f"{name}: the target {self.target!r} is infinite in row {row}; remove or fill it")
        if self.kind == "number" and numbers is None:
            raise DataError(f"{name}: kind='number', but the target {self.target!r} has words, e.g. {values[0]!r}")
        few = numbers is not None and (numbers == numbers.round()).all() and len(np.unique(numbers)) <= 20
        if self.kind == "number" or (self.kind == "auto" and numbers is not None and not few):
            assert numbers is not None
            return numbers.astype(np.float32)
        if numbers is not None:  # "1" and "1.0" are one class
            return np.array([f"{number:g}" for number in numbers])
        return np.array([value.strip() for value in values])


@dataclasses.dataclass(frozen=True)
class California(Source):
    """California housing, 1990 census: 20,640 districts, 8 numbers and the distance to the ocean; target the median price."""

    split_seed: int = 0
    """Seed of the split that sets a fifth of the districts aside."""

    def open(self) -> Dataset:
        """Inputs `[13]` float32; targets in dollars."""
        path = locate("tables/california_housing.csv.gz")
        if path is None:
            path = cache_directory() / "data" / "tables" / "california_housing.csv.gz"
            remote = Remote(
                "https://raw.githubusercontent.com/ageron/handson-ml2/master/datasets/housing/housing.csv",
                "8a3727f4cf54ac1a327f69b1d5b4db54c5834ea81c6e4efc0d163300022a685e",
            )
            content = gzip.compress(download(remote, wanted_for="tables/california_housing.csv.gz"), mtime=0)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".partial-{path.name}")
            partial.write_bytes(content)
            partial.replace(path)
        columns = read_csv(path)
        table = Tabular(target="median_house_value", kind="number", split_seed=self.split_seed)
        made = table._from_columns(with_ratios(columns), "california", str(path))
        learned = dataclasses.replace(made.columns, derive=with_ratios)
        return dataclasses.replace(made, target_name="price in $", columns=learned)


def with_ratios(columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """California's columns and three more: rooms and people in a district grow with its size, not with its prices."""
    rooms, bedrooms, people, households = (
        to_numbers(columns[key]) for key in ("total_rooms", "total_bedrooms", "population", "households")
    )
    if rooms is None or bedrooms is None or people is None or households is None:
        raise DataError(
            "california: rooms, bedrooms, population and households are numbers; correct the cells that are not"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = {
            "rooms_per_household": rooms / households,
            "bedrooms_per_room": bedrooms / rooms,
            "people_per_household": people / households,
        }
    return columns | {name: _texts(values) for name, values in ratios.items()}


def _texts(values: np.ndarray) -> list[str]:
    return ["" if np.isnan(v) else repr(float(v)) for v in values]


def read_csv(path: Path, *, least: int = 2) -> dict[str, list[str]]:
    """Columns of text by header name; raises `DataError` on damage, a missing header, a ragged row or fewer than `least`."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise DataError(f"{path} cannot be read as CSV ({type(error).__name__}: {error})") from error
    while rows and not rows[-1]:
        rows.pop()
    if len(rows) < 1 + least:
        rule = "a header and at least two rows are needed" if least > 1 else "a header and at least one row are needed"
        raise DataError(f"{path} has {len(rows)} lines; {rule}")
    header = [cell.strip() for cell in rows[0]]
    if len(set(header)) != len(header) or "" in header:
        raise DataError(f"{path}: the first line must name every column once, it reads {header}")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(f"{path}: line {number} has {len(row)} cells, the header {len(header)}")
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(header)}
