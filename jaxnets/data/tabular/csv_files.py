"""Tables of text as people have them: how one is written is found from the file, or said by the fields of `Reading`."""

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
# What may be a number in one country or another.
NUMBER_LIKE = re.compile(r"[+\-−]?[$€£]?([0-9]+[0-9.,' ]*)?[0-9]\.?([eE][+\-]?[0-9]+)?%?")
# Rows from which the delimiter is found.
SAMPLE = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How a file of text is written, as far as it is not to be found from the file."""

    delimiter: str = ""
    """Between cells: one sign, or "tab"; "" to find it among , ; tab | and spaces."""
    decimal: str = ""
    """Before the digits of a fraction: . or a comma; "" to find it."""
    thousands: str = ""
    """Between groups of three digits: , . ' or a space; "none" for none; "" to find it."""
    encoding: str = ""
    """Of the letters (utf-8, cp1252 ...); "" to find it."""
    quote: str = ""
    """Around cells that hold the delimiter; "none" where quotes are ordinary letters; "" to find it."""
    comment: str = ""
    """What lines to leave out begin with; "" leaves out lines with # that are no rows."""
    skip: int = 0
    """Lines before the header to leave out."""
    names: tuple[str, ...] = ()
    """Names of the columns, for a file without a header."""
    missing: tuple[str, ...] = ()
    """Words for missing; none named takes the usual ones (NA, NaN, null, #N/A, ?, - ...). An empty cell is always
    missing."""

    def reading(self) -> "Reading":
        """These fields alone, checked; raises `DataError`."""
        one_sign = {"decimal": self.decimal, "quote": self.quote.replace("none", ""), "delimiter": self.delimiter}
        one_sign["delimiter"] = {"tab": "\t", "\\t": "\t"}.get(self.delimiter, self.delimiter)
        for name, sign in one_sign.items():
            if len(sign) > 1 or sign in ("\r", "\n"):
                raise DataError(f"{name}={getattr(self, name)!r} is not one sign; give one, or none to find it")
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
    """A table of text."""

    path: str
    columns: dict[str, list[str]]
    """Cells without spaces around them, by header name."""
    lines: list[int]
    """On which line of the file each row begins."""
    delimiter: str
    """Between cells."""
    encoding: str
    """Of the letters."""
    index: tuple[str, ...] = ()
    """The index column, by its name."""

    def rows(self, kept: Sequence[int] | np.ndarray) -> "Sheet":
        """The table with these rows alone, in this order."""
        if len(kept) == len(self.lines) and (np.diff(kept) == 1).all():
            return self
        columns = {name: [cells[i] for i in kept] for name, cells in self.columns.items()}
        return dataclasses.replace(self, columns=columns, lines=[self.lines[i] for i in kept])

    def format(self, table: str, columns: Sequence[str], reading: Reading) -> CellFormat:
        """How the cells of these columns are written; a note says where that is doubtful.

        Args:
            table: its name, for messages.
            columns: the columns to look at.
            reading: what is known.
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
        """How the file is written, in words."""
        if len(self.columns) == 1:
            return f"one column, {self.encoding}"
        return f"{NAMES.get(self.delimiter, repr(self.delimiter))} between cells, {self.encoding}"


def read_table(path: Path, reading: Reading = Reading(), *, least: int = 2, without: str = "") -> Sheet:
    """A file of text as columns by header name.

    Args:
        path: .csv, .tsv or the like, perhaps compressed by gzip.
        reading: what is known of how it is written.
        least: rows that there must be.
        without: a column of `reading.names` that the file may lack (the target, in a file of new examples).

    Raises:
        DataError: damage, a missing header, names that are not one for each column, a ragged row, fewer rows than `least`.
    """
    reading = reading.reading()
    text, encoding = read_text(path, reading.encoding)
    start, comment, declared = _opening(text, reading)
    body = text[start:]
    quote = {"none": "", "": _quote(body)}.get(reading.quote, reading.quote)
    if quote and quote in body:
        # Spaces between the end of a quoted cell and the next delimiter are no part of the cell.
        sign = re.escape(quote)
        body = re.sub(rf"(?<!{sign}){sign} +(?=[,;|\t\r\n]|$)", lambda match: quote, body)
    delimiter = reading.delimiter or declared or _delimiter(body, quote)
    rows = list(_rows(path, body, delimiter, quote, 1 + len(LINE_BREAK.findall(text[:start]))))
    while rows and rows[-1][1] in ([], [""]):
        rows.pop()
    if comment and rows and not reading.names:
        named = _sample(comment.lstrip("#").strip(), delimiter, quote)[0]
        if len(named) == len(rows[0][1]) > 1 and any(map(CellFormat().number, rows[0][1])):
            # As numpy.savetxt writes it: the names are in the last comment before the numbers.
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
    """Where the table begins, the last comment before it, and the delimiter that a line sep=; declares, as Excel
    writes."""
    comment = declared = ""
    for number, match in enumerate(re.finditer(r"[^\r\n]*(?:\r\n|\r|\n|$)", text)):
        line = match.group().strip()
        if number < reading.skip or not line:
            continue
        if said := re.fullmatch(r'"?sep=(.)"?', match.group().rstrip("\r\n")):
            declared = said[1]
        elif line.startswith(reading.comment or "#"):
            comment = line
        else:
            return match.start(), comment, declared
    return len(text), comment, declared


def _quote(body: str) -> str:
    """Single quotes, where all names of the header are in them; else double quotes."""
    header = LINE_BREAK.split(body, maxsplit=1)[0].strip()
    return "'" if re.fullmatch(r"'[^'\"]*'(\s*[,;\t|]\s*'[^'\"]*')+", header) else '"'


def _delimiter(body: str, quote: str) -> str:
    """The sign that cuts the header and the rows into equally many cells; among several, that which leaves most
    numbers."""
    best, score = "", (False, 0.0, 0.0)
    samples = {delimiter: _sample(body, delimiter, quote) for delimiter in DELIMITERS}
    for delimiter, (header, *rows) in samples.items():
        widths = [len(row) for row in rows]
        # Rows may have one cell more than the header: an index without a name, or a delimiter at the end.
        share = max(sum(width == len(header) + more for width in widths) / max(1, len(widths)) for more in (0, 1))
        if len(header) == 1 or (delimiter == " " and share < 1):
            continue
        cells = list(itertools.chain(*rows)) or [""]
        found = (share > 0.9, sum(bool(NUMBER_LIKE.fullmatch(cell)) for cell in cells) / len(cells), share)
        if not best or found > score:
            best, score = delimiter, found
    if best:
        return best
    # A single column, unless it is a title that stands before a table.
    cut = {delimiter: sum(len(row) > 1 for row in rows) for delimiter, rows in samples.items() if delimiter != " "}
    whole = [row[0] for row in samples["\t"] if row]
    numbers = sum(bool(NUMBER_LIKE.fullmatch(cell)) for cell in whole)
    return "\t" if numbers * 2 > len(whole) else max(cut, key=lambda delimiter: cut[delimiter])


def _sample(body: str, delimiter: str, quote: str) -> list[list[str]]:
    """The first rows, blank ones left out; what no row can be made of ends them."""
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
    """Rows of cells without spaces around them, each with the line of the file on which it begins; [] for a blank
    line."""
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
                f"{path} cannot be read as CSV: a cell of the row that begins in line {first + line} has a quote "
                f"where none can "
                f"be ({error}); write quotes within a cell twice, or give quote='none' if they are ordinary letters"
            ) from error
        finally:
            csv.field_size_limit(limit)
        if row is None:
            return
        yield first + line, [cell.strip() for cell in row]


def _without_comments(path: Path, rows: list[tuple[int, list[str]]], reading: Reading) -> list[tuple[int, list[str]]]:
    """The rows that are no comments: those of a sign that is not said are single cells among rows of several."""
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
    """The rows that have something in them; in a table of one column, an empty line is an empty cell."""
    if width == 1:
        return [(line, row or [""]) for line, row in rows]
    empty = [line for line, row in rows if len(row) > 1 and not any(row)]
    if empty:
        note(f"{path}: {len(empty)} rows have empty cells only and are left out, the first is line {empty[0]}")
    return [(line, row) for line, row in rows if any(row)]


def _aligned(
    path: Path, header: list[str], rows: list[tuple[int, list[str]]]
) -> tuple[list[str], list[tuple[int, list[str]]], tuple[str, ...]]:
    """Header and rows of one width, without an index column and without columns that have neither a name nor a cell."""
    index: tuple[str, ...] = ()
    if all(len(row) == len(header) + 1 for _, row in rows):
        if any(row[-1] for _, row in rows):
            header = ["", *header]  # as R writes: the names of the rows have none themselves
        else:
            rows = [(line, row[:-1]) for line, row in rows]
    for line, row in rows:
        if len(row) != len(header):
            title = "; if the first lines are a title, leave them out with skip" if len(header) == 1 else ""
            quoted = "; a cell that holds the delimiter stands in quotes" if len(row) > len(header) > 1 else ""
            raise DataError(f"{path}: line {line} has {len(row)} cells, the header {len(header)}{title}{quoted}")
    kept = [i for i, name in enumerate(header) if name or any(row[i] for _, row in rows)]
    if kept and kept[0] == 0 and len(kept) > 1:
        counted = all(row[0] == str(number) for number, (_, row) in enumerate(rows))
        if not header[0] or (header[0] == "Unnamed: 0" and counted):
            index = (header[0] or "(no name)",)
            note(
                f"{path}: the first column, {index[0]}, is the index of a table that pandas or R wrote, and is left out"
            )
            kept = kept[1:]
    return [header[i] for i in kept], [(line, [row[i] for i in kept]) for line, row in rows], index


def _check_header(path: Path, header: list[str], rows: list[tuple[int, list[str]]]) -> None:
    remedy = "; if the file has no header, name its columns with names"
    if len(set(header)) != len(header) or "" in header:
        twice = sorted({name for name in header if header.count(name) > 1})
        which = f"; {', '.join(map(repr, twice))} stand there more than once" if twice else ""
        raise DataError(f"{path}: the first line must name every column once, it reads {header}{which}{remedy}")
    numbers = [name for name in header if CellFormat().number(name) is not None]
    counted = header == [str(i) for i in range(len(header))]  # as pandas names the columns of an array
    if any(not name.isdigit() for name in numbers) or (len(numbers) == len(header) and not counted):
        raise DataError(f"{path}: the first line reads {header[:6]}, which are no names{remedy}")
