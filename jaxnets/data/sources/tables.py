"""Tables: your own `.csv` (or `.tsv`, `.txt`, `.csv.gz` ...) or `.npz` file, and the California housing census.

Numeric columns are standardised; the median fills missing cells. Columns of words become one 0/1 feature per word. All
statistics come from the training rows.
"""

import dataclasses
import gzip
from pathlib import Path

import numpy as np

from jaxnets.core.download import Remote, cache_directory, download, locate, read_arrays
from jaxnets.core.errors import DataError, did_you_mean, note
from jaxnets.core.files import user_path
from jaxnets.data.arrays import from_arrays
from jaxnets.data.dataset import Dataset, Source, Standardize
from jaxnets.data.tabular.cells import in_order
from jaxnets.data.tabular.column_kinds import Kinds, from_numbers, learn
from jaxnets.data.tabular.columns import Columns, Ratio, Remark
from jaxnets.data.tabular.csv_files import Reading, Sheet, read_table
from jaxnets.data.tabular.csv_text import is_table
from jaxnets.data.tabular.table_targets import Kind, class_names, read_target

ASSETS = Path(__file__).parents[1] / "assets"
BUNDLED = ("iris", "wine")
# Extra columns of California: the totals grow with the size of a district, so ratios say more about prices.
RATIOS = (
    Ratio("rooms_per_household", "total_rooms", "households"),
    Ratio("bedrooms_per_room", "total_bedrooms", "total_rooms"),
    Ratio("people_per_household", "population", "households"),
)


@dataclasses.dataclass(frozen=True)
class Tabular(Source, Reading):
    """A table from a file: one row per example, one column for the target."""

    path: str = "iris"
    """A .csv, .tsv, .txt, .tab or .data file, also compressed (.csv.gz), an .npz file, or a bundled table: iris,
    wine."""
    target: str = ""
    """The column to predict; optional for .npz files with `targets` or `y`, and for the bundled tables."""
    kind: Kind = "auto"
    """Kind of the target; auto takes words and few distinct whole numbers as classes, other numbers as numbers."""
    holdout: float = 0.2
    """Share of the rows in the test split, in (0, 1)."""
    split_seed: int = 0
    """Seed of that split."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out."""
    only: tuple[str, ...] = ()
    """Names of the classes to keep; rows of other classes are left out. () keeps all."""
    numbers: tuple[str, ...] = ()
    """Columns to read as numbers, also if they look like codes (007 is 7)."""
    words: tuple[str, ...] = ()
    """Columns to read as words, also if they look like numbers (e.g. a code of digits)."""
    dates: tuple[str, ...] = ()
    """Columns to read as dates such as 2024-05-31, with or without a time; they become numbers of days."""

    def open(self) -> Dataset:
        """Inputs `[N, features]` float32; labels or real targets."""
        if self.path in BUNDLED:
            return self._from_npz(ASSETS / f"{self.path}.npz", self.path)
        path = user_path(self.path)
        if not path.is_file():
            near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
            raise DataError(f"there is no file {self.path!r}. {near} The bundled tables are {' and '.join(BUNDLED)}")
        if path.suffix == ".npz":
            return self._from_npz(path, path.stem)
        if is_table(path):
            return self._from_sheet(read_table(path, self), path.name.split(".")[0], str(path))
        raise DataError(
            f"{self.path!r} is neither .csv (.tsv, .tab, .txt, .data, also with .gz) nor .npz; convert it to one of "
            f"these"
        )

    def _from_npz(self, path: Path, name: str) -> Dataset:
        arrays = read_arrays(path)
        keys = [key for key in ("inputs", "x", "X", "data") if key in arrays]
        targets = [key for key in (self.target, "targets", "y", "target") if key and key in arrays]
        if not keys or not targets or (self.target and self.target not in arrays):
            raise DataError(
                f"{path} holds {', '.join(arrays)}; expected inputs under 'inputs' or 'x' and targets under "
                f"'targets', 'y' or the name given as target ({self.target or 'none given'})"
            )
        y, inputs = arrays[targets[0]], arrays[keys[0]]
        if self.ignore or self.numbers or self.words or self.dates:
            raise DataError(
                f"{name}: ignore, numbers, words and dates name columns of a .csv file; an .npz file has none"
            )
        y = y[:, 0] if y.shape[1:] == (1,) else y
        if y.ndim != 1 or inputs.ndim < 1 or len(y) != len(inputs):
            raise DataError(
                f"{path}: {targets[0]} has shape {y.shape} for inputs of shape {inputs.shape}; give one for each"
            )
        if self.kind == "number":
            if y.dtype.kind not in "iuf":
                raise DataError(f"{name}: kind='number', but the targets have dtype {y.dtype}")
            y = y.astype(np.float64)
        elif "target_names" in arrays and y.dtype.kind in "iu":
            if arrays["target_names"].ndim != 1:
                raise DataError(f"{path}: target_names has shape {arrays['target_names'].shape}; give a list of names")
            named = class_names(arrays["target_names"])
            if y.min(initial=0) < 0 or y.max(initial=0) >= len(named):
                raise DataError(
                    f"{path}: targets run from {y.min()} to {y.max()}, but target_names has {len(named)} names"
                )
            y = named[y]
        elif self.kind == "class" or y.dtype.kind == "S":
            y = class_names(y)
        keep = self._kept(name, y)
        return from_arrays(
            inputs[keep],
            y[keep],
            holdout=self.holdout,
            seed=self.split_seed,
            name=name,
            kind=self.kind,
            target_name=self.target or "class",
        )

    def _kept(self, name: str, targets: np.ndarray) -> np.ndarray:
        """Which rows stay, `[N]` bool."""
        if not self.only:
            return np.ones(len(targets), bool)
        if targets.dtype.kind == "f":
            raise DataError(f"{name}: only names classes to keep, but the target is numeric; choose kind='class'")
        words = targets.astype(str)
        for word in self.only:
            if word not in words:
                raise DataError(f"{name} has no class {word!r} to keep. {did_you_mean(word, set(words.tolist()))}")
        return np.isin(words, self.only)

    def _from_sheet(self, sheet: Sheet, name: str, source: str, ratios: tuple[Ratio, ...] = ()) -> Dataset:
        if self.target not in sheet.columns:
            if not self.target:
                raise DataError(f"{name}: name the column to predict in target; there are {', '.join(sheet.columns)}")
            raise DataError(f"{name} has no column {self.target!r}. {did_you_mean(self.target, sheet.columns)}")
        kinds = Kinds(self.numbers, self.words, self.dates)
        kinds.check(name, tuple(sheet.columns), self.target, self.ignore)
        read = [column for column in sheet.columns if column not in (*self.ignore, *self.words)]
        format = sheet.format(name, read, self)
        targets = read_target(name, self.target, sheet, format, self.kind)
        keep = np.flatnonzero(self._kept(name, targets))
        targets, sheet = targets[keep], sheet.rows(keep)
        train, test = self._split(name, len(targets))
        wanted = [column for column in sheet.columns if column != self.target and column not in self.ignore]
        found = {column: learn(name, column, sheet, format, train, kinds.of(column)) for column in wanted}
        known = [column for column in found.values() if column is not None]
        known += [
            from_numbers(name, ratio.name, ratio.of(sheet.columns, format), train, sheet.lines) for ratio in ratios
        ]
        if not known:
            raise DataError(f"{name} has no column left to predict {self.target!r} from")
        left_out = [(column, "as asked") for column in self.ignore] + [(column, "index") for column in sheet.index]
        left_out += [(column, "missing in all training rows") for column in wanted if found[column] is None]
        written = f"{sheet.written}, {format.written}"
        columns = Columns(
            tuple(known), ratios, format, self.reading(), self.target, f"{source}, {written}", tuple(left_out)
        )
        return self._as_dataset(columns, sheet, targets, train, test, name, source)

    def _as_dataset(
        self,
        columns: Columns,
        sheet: Sheet,
        targets: np.ndarray,
        train: np.ndarray,
        test: np.ndarray,
        name: str,
        source: str,
    ) -> Dataset:
        remarks: list[Remark] = []
        x_train, x_test = (
            columns.features(name, part.columns, found, lines=part.lines)
            for part, found in ((sheet.rows(train), []), (sheet.rows(test), remarks))
        )
        # Any split has test numbers slightly outside the training range; only unseen words and gaps are worth a note.
        if new := [remark.text for remark in remarks if remark.new]:
            note(f"{name}, test rows: " + "; ".join(new))
        dataset = from_arrays(
            x_train,
            targets[train],
            test=(x_test, targets[test]),
            name=name,
            standardize=False,  # the columns are standardised already, with training statistics
            kind="number" if targets.dtype.kind == "f" else "class",
            class_names=in_order(set(targets.tolist()), columns.format) if targets.dtype.kind == "U" else None,
            target_name=self.target,
        )
        return dataclasses.replace(dataset, prepare=Standardize(), source=source, columns=columns)

    def _split(self, name: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers of the training and the test split."""
        count = round(rows * self.holdout) if 0 < self.holdout < 1 else 0
        if not 0 < count < rows:
            raise DataError(f"{name}: holdout={self.holdout} of {rows} rows leaves an empty split")
        order = np.random.default_rng(self.split_seed).permutation(rows)
        return order[count:], order[:count]


@dataclasses.dataclass(frozen=True)
class California(Source):
    """California housing, 1990 census: 20,640 districts, 8 numbers and the distance to the ocean; the target is the
    median price."""

    split_seed: int = 0
    """Seed of the split; a fifth of the districts is the test."""

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
        table = Tabular(target="median_house_value", kind="number", split_seed=self.split_seed)
        made = table._from_sheet(read_table(path), "california", str(path), RATIOS)
        return dataclasses.replace(made, target_name="price in $")
