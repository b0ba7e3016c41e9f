"""Reads text files: encodings, byte order marks and line ends.

A line ends with LF, CR LF or, in a file without any LF, with CR. Form feeds, vertical tabs, U+0085, U+2028 and a lone CR
between LFs do not end a line. So line numbers agree with those of other programs, and each line keeps its label.
"""

import codecs
import gzip
import zlib
from pathlib import Path

from jaxnets.core.errors import DataError
from jaxnets.core.files import check_plain, user_path

# Byte order marks and their encodings; UTF-32 is first because its mark begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path | str) -> str:
    """The text of a file, gzipped or plain, with "\\n" as line end (see the module's docstring).

    The encoding is UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one; the mark is removed. `~` is the
    home folder.

    Raises:
        DataError: the file is missing, not in one of these encodings, or has NUL characters.
    """
    path = user_path(path)
    check_plain(path)
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except FileNotFoundError:
        raise DataError(f"there is no text file {str(path)!r}; check the path") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as text ({type(error).__name__}: {error}); it is damaged, or you may not read "
            f"it: check its permissions, or download it again"
        ) from error
    return plain_ends(_decode(path, content))


def read_lines(path: Path | str) -> list[str]:
    """The lines of a text file (see `read_text`) without line ends; blank lines at the end of the file are dropped."""
    lines = read_text(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def plain_ends(text: str) -> str:
    """Replace CR LF with LF and, in a text without any LF, CR with LF."""
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


def _decode(path: Path, content: bytes) -> str:
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        what = "a lone surrogate, " if _is_surrogate(content, error.start) else ""
        raise DataError(
            f"{path} cannot be read as UTF-8 text: {what}byte 0x{content[error.start]:02x} at {error.start} (line {line}) "
            f"is invalid; convert it to UTF-8, e.g. from Latin-1 with `iconv -f latin1 -t utf-8`"
        ) from error
    if "\0" in text:
        at = text.index("\0")
        raise DataError(
            f"{path} holds {text.count(chr(0)):,} NUL characters, the first at {at:,}; it is damaged, or "
            f"UTF-16 without a byte order mark: remove them, or convert it to UTF-8"
        )
    return text


def _is_surrogate(content: bytes, at: int) -> bool:
    return content[at] == 0xED and at + 1 < len(content) and content[at + 1] >= 0xA0
