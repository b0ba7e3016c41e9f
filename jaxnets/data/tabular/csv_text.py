"""Reads the text of a CSV file: compression and text encoding."""

import gzip
import re
import zlib
from pathlib import Path

from jaxnets.core.errors import DataError, did_you_mean, note
from jaxnets.data.text.textfile import MARKS

SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".data")
# Other file types that are sometimes named like a table, by their first bytes.
OTHERS = {
    b"PK\x03\x04": "a workbook or a .zip archive; save the sheet as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old workbook; save the sheet as CSV",
    b"PAR1": "a Parquet file; write it as CSV",
    b"BZh": "compressed by bzip2; unpack it, or use gzip",
    b"\xfd7zXZ": "compressed by xz; unpack it, or use gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it, or use gzip",
    b"\x93NUMPY": "a NumPy array; name it .npy",
}


def is_table(path: Path) -> bool:
    """Whether a file name ends in .csv, .tsv, .tab, .txt or .data, with or without .gz."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(SUFFIXES)


def read_text(path: Path, encoding: str = "") -> tuple[str, str]:
    """The text of a file, and its encoding; a gzipped file is unpacked.

    Args:
        path: the file.
        encoding: its text encoding; "" detects it: the byte order mark, else UTF-8, else Windows-1252 with a note.

    Raises:
        DataError: the file is missing, empty, damaged, of another kind, or not in that encoding.
    """
    content = _content(path)
    found = encoding or next((name for mark, name in MARKS if content.startswith(mark)), "")
    if found:
        try:
            text = content.decode(found)
        except LookupError:
            raise DataError(f"encoding={found!r} is unknown; give e.g. utf-8, utf-16, cp1252 or latin-1") from None
        except UnicodeError as error:
            raise DataError(
                f"{path} cannot be read as CSV: its text is not {found} ({error}); give encoding"
            ) from error
    else:
        text, found = _guessed(path, content)
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        line = 1 + len(re.findall(r"\r\n|\r|\n", text[: text.index("\0")]))
        raise DataError(
            f"{path} cannot be read as CSV: line {line} has NUL bytes, so it is damaged or in another encoding; give "
            f"encoding='utf-16-le' if it is UTF-16, or remove them"
        )
    if not text.strip():
        raise DataError(f"{path} has 0 lines that are not blank; give a header and rows")
    if text.lstrip()[:15].lower().startswith(("<!doctype html", "<html")):
        raise DataError(f"{path} is a web page, not a table; download the file itself")
    return text, found


def _content(path: Path) -> bytes:
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.is_dir() else ""
        raise DataError(f"there is no file {path}. {near or 'Check the path'}")
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        elif path.name.lower().endswith(".gz"):
            note(f"{path} is not compressed although its name ends in .gz; it is read as plain text")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as CSV ({type(error).__name__}: {error}); make it or download it again"
        ) from error
    for start, what in OTHERS.items():
        if content.startswith(start):
            raise DataError(f"{path} cannot be read as CSV: it is {what}")
    return content


def _guessed(path: Path, content: bytes) -> tuple[str, str]:
    """Decode text without a byte order mark: as UTF-8 if valid (rarely by chance), else as Windows-1252."""
    try:
        return content.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        line = 1 + len(re.findall(rb"\r\n|\r|\n", content[: error.start]))
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            raise DataError(
                f"{path} cannot be read as CSV: line {line} is neither UTF-8 nor Windows-1252; give its encoding "
                f"(e.g. utf-16-le, cp1250, shift_jis)"
            ) from error
        around = re.findall(r"[^\r\n,;\t|\"]*", text[max(0, error.start - 20) : error.start + 20])
        word = max((piece.strip() for piece in around), key=lambda piece: sum(ord(letter) > 127 for letter in piece))
        note(
            f"{path} is not UTF-8; it is read as Windows-1252 (cp1252), which makes {word!r} of a word in line {line}. "
            f"Give its encoding if that is wrong"
        )
        return text, "cp1252"
