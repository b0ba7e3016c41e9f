"""Text files as people have them: encodings, byte order marks, line ends, and lines that stay what the file says they are.

A line ends with LF, CR LF or, in a file without any LF, with CR. Nothing else ends one: form feeds, vertical tabs, U+0085,
U+2028 and a lone CR between LFs stay inside it, so line 7 is line 7 for every reader and its label stays with it.
"""

import codecs
import gzip
import zlib
from pathlib import Path

from jaxnets.core.errors import DataError
from jaxnets.core.files import check_plain, user_path

# A byte order mark says the encoding; UTF-32 before UTF-16, whose mark it begins with.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path | str) -> str:
    """The text of a file, gzipped or plain, its line ends as "\\n" (see the module's docstring).

    It is UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one; the mark is no part of the text. `~` stands
    for the home folder.

    Raises:
        DataError: no such file, bytes that are none of these encodings, or NUL characters.
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
            f"{path} cannot be read as text ({type(error).__name__}: {error}); it is damaged, or not yours to read: fetch it "
            f"again"
        ) from error
    return plain_ends(_decode(path, content))


def read_lines(path: Path | str) -> list[str]:
    """The lines of a text file (see `read_text`), without their ends; blank ones count, those after the last text do not."""
    lines = read_text(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def plain_ends(text: str) -> str:
    """Line ends CR LF as LF and, in a text without any LF, CR as LF."""
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
            f"{path} cannot be read as UTF-8 text: {what}byte 0x{content[error.start]:02x} at {error.start} (line {line}) is "
            f"none; convert it to UTF-8, from Latin-1 say by `iconv -f latin1 -t utf-8`"
        ) from error
    if "\0" in text:
        at = text.index("\0")
        raise DataError(
            f"{path} holds {text.count(chr(0)):,} NUL characters, the first at {at:,}, which no text has; it is damaged, or "
            f"UTF-16 without a byte order mark: take them out, or convert it to UTF-8"
        )
    return text


def _is_surrogate(content: bytes, at: int) -> bool:
    return content[at] == 0xED and at + 1 < len(content) and content[at + 1] >= 0xA0
