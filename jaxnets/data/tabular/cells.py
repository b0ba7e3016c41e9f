"""What a cell of a table says: a number, a date, or that nothing is known.

Python's own `float` takes more than tables mean ("12_5", "nan", digits of other scripts) and less ("1,250"), so what
counts as a number is written down here.
"""

import dataclasses
import datetime
import functools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal

import numpy as np

# What tables write where nothing is known, compared without regard to case: all that pandas takes for missing, what
# spreadsheets write for a failed formula, and a few signs. The empty cell is always missing.
MISSING = (
    "", "na", "n/a", "nan", "-nan", "null", "none", "nil", "nat", "<na>", "#n/a", "#n/a n/a", "#na",
    "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
    "#div/0!", "#value!", "#num!", "#ref!", "#name?", "#null!", "n.a.", "?", "-", "--", ".",
)  # fmt: skip
# Spellings of one truth value, as pandas takes them.
BOOLEANS = {"true": "True", "TRUE": "True", "True": "True", "false": "False", "FALSE": "False", "False": "False"}
INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
SPACES = " \u00a0\u202f\u2009"  # ordinary, no-break, narrow no-break, thin
THOUSANDS = {"": "", ",": ",", ".": ".", " ": SPACES, "'": "'’"}
# A cell of digits alone that starts with 0: a postal code or another identifier, for numbers are not written so.
LEADING_ZERO = re.compile(r"[+-]?0[0-9]+")
# A number with a sign beside it: of a currency, a share, or the brackets of book-keepers around what is below 0.
WITH_SIGN = re.compile(r"[+\-−]?(?P<before>[$€£¥(])\s*(?P<a>[^$€£¥%()]+)\)?|(?P<b>[^$€£¥%()]+?)\s*(?P<after>[$€£¥%])")
# A date or a time that is not written as `DATE` is; 01/02/2024 may be January or February.
DATE_LIKE = re.compile(
    r"[0-9]{1,2}([./-])[0-9]{1,2}\1[0-9]{2,4}.*|[0-9]{4}[./][0-9]{1,2}[./][0-9]{1,2}.*|[0-9]{1,2}:[0-9]{2}.*"
)
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9:.]+(?:Z|[+-][0-9:]+)?)?")


@functools.lru_cache
def _pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    point, whole = re.escape(decimal), "[0-9]+"
    if thousands:
        sign = f"[{THOUSANDS[thousands]}]"
        # Groups of three; in India of two, before a last one of three.
        groups = f"(?:{sign}[0-9]{{2,3}})*{sign}[0-9]{{3}}" if thousands == "," else f"(?:{sign}[0-9]{{3}})+"
        whole = f"(?:[1-9][0-9]{{0,2}}{groups}|{whole})"
    return re.compile(rf"[+\-−]?(?:{whole}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+\-−]?[0-9]+)?")


# A sign that one country writes before a fraction and another between thousands.
SIGN_AMONG_DIGITS = re.compile(rf"[0-9][.,'’{SPACES}][0-9]|^[+\-−]?[.,][0-9]|[0-9][.,]$", re.MULTILINE)
ONES = str.maketrans("023456789", "1" * 9)
OTHER_SIGN = re.compile(rf"\.[0-9]{{3}}\.[0-9]|[0-9][,'’{SPACES}][0-9]|^[+\-−]?,[0-9]|[0-9],$", re.MULTILINE)
PLAIN = re.compile(r"[0-9.eE+\-\n]*")


@dataclasses.dataclass(frozen=True)
class CellFormat:
    """How the cells of a table are written."""

    decimal: str = "."
    """Before the digits of a fraction."""
    thousands: str = ""
    """Between groups of three digits; "" for none."""
    missing: tuple[str, ...] = ()
    """Words for missing, beside the empty cell; none named takes those of `MISSING`."""

    @functools.cached_property
    def missing_words(self) -> frozenset[str]:
        """All words for missing, in lower case."""
        return frozenset(word.strip().lower() for word in (*(self.missing or MISSING), ""))

    @property
    def written(self) -> str:
        """The signs, in words."""
        grouped = f", {self.thousands!r} between thousands" if self.thousands else ""
        return f"decimal sign {self.decimal!r}{grouped}"

    def is_missing(self, cell: str) -> bool:
        """Whether a cell without spaces around it says that nothing is known."""
        return cell.lower() in self.missing_words

    def number(self, cell: str) -> float | None:
        """The number that a cell holds, infinite if it says so; None where it is none, as in a missing cell."""
        if _pattern(self.decimal, self.thousands).fullmatch(cell):
            return float(self.exact(cell))
        return float(cell) if INFINITE.fullmatch(cell) else None

    def exact(self, cell: str) -> Decimal:
        """The number that a cell holds, to the last of its digits."""
        for sign in THOUSANDS[self.thousands]:
            cell = cell.replace(sign, "")
        return Decimal(cell.replace("−", "-").replace(self.decimal, "."))

    def numbers(self, cells: Sequence[str]) -> np.ndarray | None:
        """A column as float64 `[rows]` with NaN for missing cells, or None where a cell is no number."""
        text = "\n".join(cells)
        if self.decimal == ",":
            text = text.replace(".", "x").replace(",", ".")
        # Words for missing may be numbers themselves (-999), and a cell may have several lines.
        whole = not any(word[-1:].isdigit() for word in self.missing) and text.count("\n") == len(cells) - 1
        if whole and PLAIN.fullmatch(text):
            # No sign in these cells that `float` reads otherwise, and it is much faster than a pattern for each.
            try:
                return np.fromiter(map(float, text.split("\n")), np.float64, len(cells))
            except ValueError:
                pass  # a missing cell; or "1-2", which is found below
        values = np.full(len(cells), np.nan)
        for i, cell in enumerate(cells):
            if not self.is_missing(cell):
                value = self.number(cell)
                if value is None:
                    return None
                values[i] = value
        return self.without_missing(values)

    def without_missing(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers with NaN where they are one that stands for missing (-999), however it was written."""
        stand_ins = [value for word in self.missing if (value := self.number(word)) is not None]
        return np.where(np.isin(numbers, stand_ins), np.nan, numbers) if stand_ins else numbers

    def odd(self, cells: Sequence[str]) -> list[int]:
        """The rows whose cells are neither numbers nor missing."""
        return [i for i, cell in enumerate(cells) if not self.is_missing(cell) and self.number(cell) is None]


def to_days(cell: str) -> float | None:
    """Days since 1970-01-01 of a date written as 2024-05-31, with a time or without; None where it is none.

    A time with a zone counts in UTC.
    """
    if not DATE.fullmatch(cell):
        return None
    try:
        moment = datetime.datetime.fromisoformat(cell)
    except ValueError:
        return None
    return days(moment)


def days(moment: datetime.datetime | datetime.date) -> float:
    """Days since 1970-01-01 of a moment; in UTC, where it has a zone."""
    if not isinstance(moment, datetime.datetime):
        moment = datetime.datetime(moment.year, moment.month, moment.day)
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return (moment - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1)


def candidates(delimiter: str, point: str = "", thousands: str = "") -> list[tuple[str, str]]:
    """Decimal and thousands signs that a file may use, the likelier first.

    A file with commas between its cells hardly writes decimal commas; one with semicolons does so because it does.
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
    """The one format that makes numbers of the most cells, and a remark where another would make other numbers of them.

    Args:
        columns: the cells of each column, without spaces around them.
        delimiter: what is between the cells of the file.
        decimal: the decimal sign, if it is known; else "".
        thousands: the sign between thousands, if it is known; "none" for none; "" to find it.
        missing: words for missing, as in `CellFormat`.
    """
    if delimiter == "," and not any(OTHER_SIGN.search("\n".join(cells)) for cells in columns.values()):
        return CellFormat(decimal or ".", "" if thousands == "none" else thousands, missing), ""
    formats = [CellFormat(*pair, missing) for pair in candidates(delimiter, decimal, thousands)]
    shapes = {name: _shapes(cells, formats[0]) for name, cells in columns.items()}
    # Votes: the share of cells that are numbers, of every column that is mostly numbers then.
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
                        f"numbers such as {cell!r} in column {name!r} are read with {chosen.written}, and may be meant with "
                        f"{other.written}; give decimal and thousands to say which"
                    )
    return chosen, ""


def _shapes(cells: Collection[str], format: CellFormat) -> Counter[str]:
    """How often a column has cells of each shape, the digits after the second letter written as 1; of a column without a
    sign between digits, none.

    Whether a cell is a number depends on its shape alone, and a column of numbers has few.
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
    """Words in the order in which classes are numbered: numbers by their size, then the others by their letters."""

    def key(word: str) -> tuple[bool, Decimal, str]:
        number = format.number(word)
        return (number is None, format.exact(word) if number is not None else Decimal(0), word)

    return sorted(words, key=key)
