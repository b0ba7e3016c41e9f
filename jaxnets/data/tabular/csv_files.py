"""CSV files of many dialects. The dialect is detected from the file, or given by the fields of `Reading`."""

import csv
import dataclasses
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxnets.core.errors import DataError, note
from jaxnets.data.tabular.cells import CellFormat, find_format
from jaxnets.data.tabular.csv_text import read_text

DELIMITERS = (",", ";", "\t", "|", " ")
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}
LINE_BREAK = re.compile(r"\r\n|\r|\n")
# A number in the notation of any country.
NUMBER_LIKE = re.compile(r"[+\-−]?[$€£]?([0-9]+[0-9.,' ]*)?[0-9]\.?([eE][+\-]?[0-9]+)?%?")
# Rows that are used to detect the delimiter.
SAMPLE = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """The dialect of a CSV file; each field left at "" is detected from the file."""

    delimiter: str = ""
    """Separator of cells: one character, or "tab"; "" detects one of , ; tab | and space."""
    decimal: str = ""
    """Decimal sign: . or a comma; "" detects it."""
    thousands: str = ""
    """Separator of groups of three digits: , . ' or a space; "none" for none; "" detects it."""
    encoding: str = ""
    """Text encoding (utf-8, cp1252 ...); "" detects it."""
    quote: str = ""
    """Quote character around cells that hold the delimiter; "none" if quotes are ordinary characters; "" detects it."""
    comment: str = ""
    """Prefix of comment lines, which are left out; "" leaves out lines with # that are not rows."""
    skip: int = 0
    """Lines to leave out before the header."""
    names: tuple[str, ...] = ()
    """Names of the columns, for a file without a header."""
    missing: tuple[str, ...] = ()
    """Markers of missing cells; () takes the usual ones (NA, NaN, null, #N/A, ?, - ...). An empty cell is always
    missing."""

    def reading(self) -> "Reading":
        """Only the fields of `Reading`, checked; raises `DataError`."""
        one_sign = {"decimal": self.decimal, "quote": self.quote.replace("none", ""), "delimiter": self.delimiter}
        one_sign["delimiter"] = {"tab": "\t", "\\t": "\t"}.get(self.delimiter, self.delimiter)
        for name, sign in one_sign.items():
            if len(sign) > 1 or sign in ("\r", "\n"):
                raise DataError(f'{name}={getattr(self, name)!r} is not one character; give one, or "" to detect it')
        if self.decimal not in ("", ".", ","):
            raise DataError(f"decimal={self.decimal!r} is neither . nor a comma")
        if self.thousands not in ("", ",", ".", "'", " ", "none") or (
            self.thousands and self.thousands == self.decimal
        ):
            raise DataError(f"thousands={self.thousands!r} is none of , . ' space and 'none', or is the decimal sign")
        if self.skip < 0:
            raise DataError(f"skip is 0 or more, got {self.skip}")
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Reading)}
        return Reading(**fields | {"delimiter": one_sign["delimiter"]})


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A table whose cells are text."""

    path: str
    columns: dict[str, list[str]]
    """Stripped cells, by column name."""
    lines: list[int]
    """The line of the file on which each row begins."""
    delimiter: str
    """Separator of cells."""
    encoding: str
    """Text encoding."""
    index: tuple[str, ...] = ()
    """Name of the index column, if there is one."""

    def rows(self, kept: Sequence[int] | np.ndarray) -> "Sheet":
        """The table with only these rows, in this order."""
        if len(kept) == len(self.lines) and (np.diff(kept) == 1).all():
            return self
        columns = {name: [cells[i] for i in kept] for name, cells in self.columns.items()}
        return dataclasses.replace(self, columns=columns, lines=[self.lines[i] for i in kept])

    def format(self, table: str, columns: Sequence[str], reading: Reading) -> CellFormat:
        """The number format of these columns; a note says if it is ambiguous.

        Args:
            table: name of the table, for messages.
            columns: the columns to check.
            reading: the parts of the dialect that are given.
        """
        cells = {name: self.columns[name] for name in columns if name in self.columns}
        format, doubt = find_format(
            cells, self.delimiter, decimal=reading.decimal, thousands=reading.thousands, missing=reading.missing
        )
        if doubt:
            note(f"{table}: {doubt}")
        return format

    @property
    def written(self) -> str:
        """A short description of the dialect."""
        if len(self.columns) == 1:
            return f"one column, {self.encoding}"
        return f"{NAMES.get(self.delimiter, repr(self.delimiter))} between cells, {self.encoding}"


def read_table(path: Path, reading: Reading = Reading(), *, least: int = 2, without: str = "") -> Sheet:
    """Read a CSV file into columns by name.

    Args:
        path: a .csv, .tsv or similar file, plain or gzipped.
        reading: the parts of the dialect that are given.
        least: the fewest rows allowed.
        without: a column of `reading.names` that the file may lack (the target, in a file of new examples).

    Raises:
        DataError: the file is damaged, has no header, names that do not match its columns, a ragged row, or fewer rows than
            `least`.
    """
    reading = reading.reading()
    text, encoding = read_text(path, reading.encoding)
    start, comment, declared = _opening(text, reading)
    body = text[start:]
    quote = {"none": "", "": _quote(body)}.get(reading.quote, reading.quote)
    if quote and quote in body:
        # Drop spaces between a closing quote and the next delimiter.
        sign = re.escape(quote)
        body = re.sub(rf"(?<!{sign}){sign} +(?=[,;|\t\r\n]|$)", lambda match: quote, body)
    delimiter = reading.delimiter or declared or _delimiter(body, quote)
    rows = list(_rows(path, body, delimiter, quote, 1 + len(LINE_BREAK.findall(text[:start]))))
    while rows and rows[-1][1] in ([], [""]):
        rows.pop()
    if comment and rows and not reading.names:
        named = _sample(comment.lstrip("#").strip(), delimiter, quote)[0]
        if len(named) == len(rows[0][1]) > 1 and any(map(CellFormat().number, rows[0][1])):
            # numpy.savetxt writes the column names in the last comment before the numbers.
            rows.insert(0, (0, named))
    rows = _without_comments(path, rows, reading)
    if not reading.names and rows:
        header, rows = rows[0][1], rows[1:]
    elif without in reading.names and all(len(row) == len(reading.names) - 1 for _, row in rows):
        header = [name for name in reading.names if name != without]
    else:
        header = list(reading.names)
    rows = _without_blank(path, rows, len(header))
    if len(rows) < least:
        rule = f"{'' if reading.names else 'a header and '}at least {'two rows' if least > 1 else 'one row'} are needed"
        raise DataError(f"{path} has {len(rows) + (not reading.names)} lines; {rule}")
    header, rows, index = _aligned(path, header, rows)
    if not reading.names:
        _check_header(path, header, rows)
    columns = {name: [row[i] for _, row in rows] for i, name in enumerate(header)}
    return Sheet(str(path), columns, [line for line, _ in rows], delimiter, encoding, index)


def _opening(text: str, reading: Reading) -> tuple[int, str, str]:
    """The offset of the table, the last comment before it, and the delimiter of a "sep=;" line, as Excel writes it."""
    comment = declared = ""
    for number, match in enumerate(re.finditer(r"[^\r\n]*(?:\r\n|\r|\n|$)", text)):
        line = match.group().strip()
        if number < reading.skip or not line:
            continue
        if found := re.fullmatch(r'"?sep=(.)"?', match.group().rstrip("\r\n")):
            declared = found[1]
        elif line.startswith(reading.comment or "#"):
            comment = line
        else:
            return match.start(), comment, declared
    return len(text), comment, declared


def _quote(body: str) -> str:
    """The quote character: single if all header names have single quotes, else double."""
    header = LINE_BREAK.split(body, maxsplit=1)[0].strip()
    return "'" if re.fullmatch(r"'[^'\"]*'(\s*[,;\t|]\s*'[^'\"]*')+", header) else '"'


def _delimiter(body: str, quote: str) -> str:
    """The delimiter that gives the header and the rows equally many cells; of several, the one that gives most
    numbers."""
    best, score = "", (False, 0.0, 0.0)
    samples = {delimiter: _sample(body, delimiter, quote) for delimiter in DELIMITERS}
    for delimiter, (header, *rows) in samples.items():
        widths = [len(row) for row in rows]
        # Rows may have one more cell than the header: an index without a name, or a trailing delimiter.
        share = max(sum(width == len(header) + more for width in widths) / max(1, len(widths)) for more in (0, 1))
        if len(header) == 1 or (delimiter == " " and share < 1):
            continue
        cells = list(itertools.chain(*rows)) or [""]
        found = (share > 0.9, sum(bool(NUMBER_LIKE.fullmatch(cell)) for cell in cells) / len(cells), share)
        if not best or found > score:
            best, score = delimiter, found
    if best:
        return best
    # A single column, unless a title stands before the table.
    cut = {delimiter: sum(len(row) > 1 for row in rows) for delimiter, rows in samples.items() if delimiter != " "}
    whole = [row[0] for row in samples["\t"] if row]
    numbers = sum(bool(NUMBER_LIKE.fullmatch(cell)) for cell in whole)
    return "\t" if numbers * 2 > len(whole) else max(cut, key=lambda delimiter: cut[delimiter])


def _sample(body: str, delimiter: str, quote: str) -> list[list[str]]:
    """The first rows without blank ones; an unreadable row ends the sample."""
    rows: list[list[str]] = []
    try:
        for _, row in _rows(Path(), body, delimiter, quote, 1):
            if any(row):
                rows.append(row)
            if len(rows) > SAMPLE:
                break
    except DataError:
        pass
    return rows or [[""]]


def _rows(path: Path, body: str, delimiter: str, quote: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """Rows of stripped cells, each with the line of the file on which it begins; a blank line gives []."""
    lines: Iterator[str] = io.StringIO(body, newline="")
    if delimiter == " ":
        lines = (line.rstrip() + "\n" for line in lines)
    form = {"delimiter": delimiter, "skipinitialspace": True, "strict": True}
    form |= {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    reader = csv.reader(lines, **form)  # type: ignore[arg-type]
    line = 0
    while True:
        line = reader.line_num
        limit = csv.field_size_limit(len(body) + 1)
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{path} cannot be read as CSV: the row that begins in line {first + line} has a quote inside a cell "
                f"({error}); double the quotes within a cell, or give quote='none' if they are ordinary characters"
            ) from error
        finally:
            csv.field_size_limit(limit)
        if row is None:
            return
        yield first + line, [cell.strip() for cell in row]


def _without_comments(path: Path, rows: list[tuple[int, list[str]]], reading: Reading) -> list[tuple[int, list[str]]]:
    """The rows without comments. Without `reading.comment`, a comment is a lone cell with # in a table of several columns."""
    mark, several = reading.comment or "#", max((len(row) for _, row in rows), default=0) > 1
    comments = [
        line
        for line, row in rows
        if row and row[0].startswith(mark) and line and (reading.comment or (several and len(row) == 1))
    ]
    if comments and not reading.comment:
        note(f"{path}: {len(comments)} lines begin with # and are left out, the first is line {comments[0]}")
    left = set(comments)
    return [(line, row) for line, row in rows if line not in left]


def _without_blank(path: Path, rows: list[tuple[int, list[str]]], width: int) -> list[tuple[int, list[str]]]:
    """The rows without blank ones; in a table of one column, an empty line is an empty cell."""
    if width == 1:
        return [(line, row or [""]) for line, row in rows]
    empty = [line for line, row in rows if len(row) > 1 and not any(row)]
    if empty:
        note(f"{path}: {len(empty)} rows have only empty cells and are left out, the first is line {empty[0]}")
    return [(line, row) for line, row in rows if any(row)]


def _aligned(
    path: Path, header: list[str], rows: list[tuple[int, list[str]]]
) -> tuple[list[str], list[tuple[int, list[str]]], tuple[str, ...]]:
    """Header and rows of equal width, without an index column and without empty columns that have no name."""
    index: tuple[str, ...] = ()
    if all(len(row) == len(header) + 1 for _, row in rows):
        if any(row[-1] for _, row in rows):
            header = ["", *header]  # R writes row names without a header
        else:
            rows = [(line, row[:-1]) for line, row in rows]
    for line, row in rows:
        if len(row) != len(header):
            title = "; if the first lines are a title, leave them out with skip" if len(header) == 1 else ""
            quoted = "; put cells that hold the delimiter in quotes" if len(row) > len(header) > 1 else ""
            raise DataError(f"{path}: line {line} has {len(row)} cells, the header {len(header)}{title}{quoted}")
    kept = [i for i, name in enumerate(header) if name or any(row[i] for _, row in rows)]
    if kept and kept[0] == 0 and len(kept) > 1:
        counted = all(row[0] == str(number) for number, (_, row) in enumerate(rows))
        if not header[0] or (header[0] == "Unnamed: 0" and counted):
            index = (header[0] or "(no name)",)
            note(f"{path}: the first column, {index[0]}, is an index that pandas or R wrote, and is left out")
            kept = kept[1:]
    return [header[i] for i in kept], [(line, [row[i] for i in kept]) for line, row in rows], index


def _check_header(path: Path, header: list[str], rows: list[tuple[int, list[str]]]) -> None:
    remedy = "; if the file has no header, name its columns with names"
    if len(set(header)) != len(header) or "" in header:
        twice = sorted({name for name in header if header.count(name) > 1})
        which = f"; {', '.join(map(repr, twice))} occur more than once" if twice else ""
        raise DataError(f"{path}: the first line must name every column once, but it is {header}{which}{remedy}")
    numbers = [name for name in header if CellFormat().number(name) is not None]
    counted = header == [str(i) for i in range(len(header))]  # pandas' column names for an array
    if any(not name.isdigit() for name in numbers) or (len(numbers) == len(header) and not counted):
        raise DataError(f"{path}: the first line is {header[:6]}, which are not names{remedy}")
