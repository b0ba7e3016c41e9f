"""Parses the cells of a table: numbers, dates and missing values.

`float` accepts text that is not a number in a table ("12_5", "nan", digits of other scripts) and rejects some that is
("1,250"), so the rules are defined here.
"""

import dataclasses
import datetime
import functools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal

import numpy as np

# Markers of missing cells, compared without case: those of pandas, those of spreadsheets for a failed formula, and a few
# signs. An empty cell is always missing.
MISSING = (
    "", "na", "n/a", "nan", "-nan", "null", "none", "nil", "nat", "<na>", "#n/a", "#n/a n/a", "#na",
    "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
    "#div/0!", "#value!", "#num!", "#ref!", "#name?", "#null!", "n.a.", "?", "-", "--", ".",
)  # fmt: skip
# Spellings of booleans, as in pandas.
BOOLEANS = {"true": "True", "TRUE": "True", "True": "True", "false": "False", "FALSE": "False", "False": "False"}
INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
SPACES = " \u00a0\u202f\u2009"  # ordinary, no-break, narrow no-break, thin
THOUSANDS = {"": "", ",": ",", ".": ".", " ": SPACES, "'": "'’"}
# Digits that start with 0: a postal code or another identifier, not a number.
LEADING_ZERO = re.compile(r"[+-]?0[0-9]+")
# A number with a currency sign, a percent sign, or the accountant's brackets for a negative number.
WITH_SIGN = re.compile(r"[+\-−]?(?P<before>[$€£¥(])\s*(?P<a>[^$€£¥%()]+)\)?|(?P<b>[^$€£¥%()]+?)\s*(?P<after>[$€£¥%])")
# A date or a time in another notation than `DATE`; 01/02/2024 may be January or February.
DATE_LIKE = re.compile(
    r"[0-9]{1,2}([./-])[0-9]{1,2}\1[0-9]{2,4}.*|[0-9]{4}[./][0-9]{1,2}[./][0-9]{1,2}.*|[0-9]{1,2}:[0-9]{2}.*"
)
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9:.]+(?:Z|[+-][0-9:]+)?)?")


@functools.lru_cache
def _pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    point, whole = re.escape(decimal), "[0-9]+"
    if thousands:
        sign = f"[{THOUSANDS[thousands]}]"
        # Groups of three digits; in India groups of two before a last group of three.
        groups = f"(?:{sign}[0-9]{{2,3}})*{sign}[0-9]{{3}}" if thousands == "," else f"(?:{sign}[0-9]{{3}})+"
        whole = f"(?:[1-9][0-9]{{0,2}}{groups}|{whole})"
    return re.compile(rf"[+\-−]?(?:{whole}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+\-−]?[0-9]+)?")


# A sign that is a decimal sign in some countries and a thousands separator in others.
SIGN_AMONG_DIGITS = re.compile(rf"[0-9][.,'’{SPACES}][0-9]|^[+\-−]?[.,][0-9]|[0-9][.,]$", re.MULTILINE)
ONES = str.maketrans("023456789", "1" * 9)
OTHER_SIGN = re.compile(rf"\.[0-9]{{3}}\.[0-9]|[0-9][,'’{SPACES}][0-9]|^[+\-−]?,[0-9]|[0-9],$", re.MULTILINE)
PLAIN = re.compile(r"[0-9.eE+\-\n]*")


@dataclasses.dataclass(frozen=True)
class CellFormat:
    """The notation of numbers and missing values in the cells of a table."""

    decimal: str = "."
    """Decimal sign."""
    thousands: str = ""
    """Separator of groups of three digits; "" for none."""
    missing: tuple[str, ...] = ()
    """Markers of missing cells, besides the empty cell; () takes `MISSING`."""

    @functools.cached_property
    def missing_words(self) -> frozenset[str]:
        """All markers of missing cells, in lower case."""
        return frozenset(word.strip().lower() for word in (*(self.missing or MISSING), ""))

    @property
    def written(self) -> str:
        """A short description of the number format."""
        grouped = f", {self.thousands!r} between thousands" if self.thousands else ""
        return f"decimal sign {self.decimal!r}{grouped}"

    def is_missing(self, cell: str) -> bool:
        """Whether a stripped cell is missing."""
        return cell.lower() in self.missing_words

    def number(self, cell: str) -> float | None:
        """The number in a cell, which may be infinite; None if the cell is not a number, e.g. missing."""
        if _pattern(self.decimal, self.thousands).fullmatch(cell):
            return float(self.exact(cell))
        return float(cell) if INFINITE.fullmatch(cell) else None

    def exact(self, cell: str) -> Decimal:
        """The number in a cell, with all its digits."""
        for sign in THOUSANDS[self.thousands]:
            cell = cell.replace(sign, "")
        return Decimal(cell.replace("−", "-").replace(self.decimal, "."))

    def numbers(self, cells: Sequence[str]) -> np.ndarray | None:
        """A column as float64 `[rows]`, NaN for missing cells; None if a cell is neither a number nor missing."""
        text = "\n".join(cells)
        if self.decimal == ",":
            text = text.replace(".", "x").replace(",", ".")
        # Markers of missing cells may be numbers (-999), and a cell may have several lines.
        whole = not any(word[-1:].isdigit() for word in self.missing) and text.count("\n") == len(cells) - 1
        if whole and PLAIN.fullmatch(text):
            # For these characters `float` agrees with the rules here, and it is much faster than a pattern per cell.
            try:
                return np.fromiter(map(float, text.split("\n")), np.float64, len(cells))
            except ValueError:
                pass  # a missing cell, or text such as "1-2": the loop below handles both
        values = np.full(len(cells), np.nan)
        for i, cell in enumerate(cells):
            if not self.is_missing(cell):
                value = self.number(cell)
                if value is None:
                    return None
                values[i] = value
        return self.without_missing(values)

    def without_missing(self, numbers: np.ndarray) -> np.ndarray:
        """Replace numbers that are markers of missing cells (e.g. -999, in any spelling) with NaN."""
        stand_ins = [value for word in self.missing if (value := self.number(word)) is not None]
        return np.where(np.isin(numbers, stand_ins), np.nan, numbers) if stand_ins else numbers

    def odd(self, cells: Sequence[str]) -> list[int]:
        """The rows whose cells are neither numbers nor missing."""
        return [i for i, cell in enumerate(cells) if not self.is_missing(cell) and self.number(cell) is None]


def to_days(cell: str) -> float | None:
    """Days since 1970-01-01 of a date such as 2024-05-31, with or without a time; None if the cell is not a date.

    A time with a zone is converted to UTC.
    """
    if not DATE.fullmatch(cell):
        return None
    try:
        moment = datetime.datetime.fromisoformat(cell)
    except ValueError:
        return None
    return days(moment)


def days(moment: datetime.datetime | datetime.date) -> float:
    """Days since 1970-01-01 of a date or datetime; a datetime with a zone is converted to UTC."""
    if not isinstance(moment, datetime.datetime):
        moment = datetime.datetime(moment.year, moment.month, moment.day)
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return (moment - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1)


def candidates(delimiter: str, point: str = "", thousands: str = "") -> list[tuple[str, str]]:
    """Pairs of decimal and thousands signs that a file may use, the likeliest first.

    Files with comma delimiters rarely have decimal commas; files with semicolons usually do.
    """
    points = [(".", ""), (".", ","), (".", " "), (".", "'")]
    commas = [(",", ""), (",", "."), (",", " "), (",", "'")]
    ordered = points[:1] + commas + points[1:] if delimiter == ";" else points + commas
    wanted = "" if thousands == "none" else thousands
    kept = [pair for pair in ordered if point in ("", pair[0])]
    return [pair for pair in kept if pair[1] == wanted] if thousands else kept


def find_format(
    columns: Mapping[str, Collection[str]], delimiter: str, *, decimal: str, thousands: str, missing: tuple[str, ...]
) -> tuple[CellFormat, str]:
    """The format that reads the most cells as numbers, and a remark if another format reads different numbers.

    Args:
        columns: the stripped cells of each column.
        delimiter: the separator of cells in the file.
        decimal: the decimal sign, if it is known; else "".
        thousands: the thousands separator, if it is known; "none" for none; "" detects it.
        missing: markers of missing cells, as in `CellFormat`.
    """
    if delimiter == "," and not any(OTHER_SIGN.search("\n".join(cells)) for cells in columns.values()):
        return CellFormat(decimal or ".", "" if thousands == "none" else thousands, missing), ""
    formats = [CellFormat(*pair, missing) for pair in candidates(delimiter, decimal, thousands)]
    shapes = {name: _shapes(cells, formats[0]) for name, cells in columns.items()}
    # Votes: the sum, over columns that become mostly numbers, of the share of cells that are numbers.
    votes = [0.0] * len(formats)
    for counts in shapes.values():
        for i, one in enumerate(formats):
            share = sum(count for cell, count in counts.items() if one.number(cell) is not None) / counts.total()
            votes[i] += share if share >= 0.5 else 0.0
    best = votes.index(max(votes))
    chosen = formats[best]
    for other, count in zip(formats, votes, strict=True):
        if count < votes[best] or not count or other.decimal == chosen.decimal:
            continue
        for name, counts in shapes.items():
            for shape in counts:
                this, that = chosen.number(shape), other.number(shape)
                if this is not None and that is not None and this != that:
                    cell = next(cell for cell in columns[name] if _shape(cell) == shape)
                    return chosen, (
                        f"numbers such as {cell!r} in column {name!r} are read with {chosen.written}, but could also have "
                        f"{other.written}; give decimal and thousands to choose"
                    )
    return chosen, ""


def _shapes(cells: Collection[str], format: CellFormat) -> Counter[str]:
    """Counts of the cell shapes in a column: cells with each digit after the second character replaced by 1. A column
    without a sign between digits gives a single empty shape.

    Whether a cell is a number depends only on its shape, and a column of numbers has few shapes.
    """
    if not SIGN_AMONG_DIGITS.search("\n".join(cells)):
        return Counter({"": 1})
    shapes = Counter(map(_shape, cells))
    return Counter({shape: count for shape, count in shapes.items() if not format.is_missing(shape)}) or Counter(
        {"": 1}
    )


def _shape(cell: str) -> str:
    return cell[:2] + cell[2:].translate(ONES)


def in_order(words: Collection[str], format: CellFormat = CellFormat()) -> list[str]:
    """Words in the order of class numbers: numbers first, by value, then other words alphabetically."""

    def key(word: str) -> tuple[bool, Decimal, str]:
        number = format.number(word)
        return (number is None, format.exact(word) if number is not None else Decimal(0), word)

    return sorted(words, key=key)
