"""The standard streams as they occur in practice: closed, full, or in an encoding that lacks a character.

Output must never end a run: a character that an encoding lacks is spelled in ASCII, and a stream that cannot be written to is
ignored.
"""

import codecs
import io
import os
import sys
from typing import Any, TextIO

# What a character may be replaced by where an encoding lacks it; others are spelled by their numbers, as Python does (\xfc).
SPELLINGS = {
    "≥": ">=", "≤": "<=", "±": "+-", "×": "x", "·": ".", "–": "-", "—": "-", "−": "-", "…": "...", "→": "->",
    "“": '"', "”": '"', "‘": "'", "’": "'", "\u00a0": " ", "²": "^2", "│": "|", "─": "-", "━": "-",
}  # fmt: skip
HANDLER = "jaxnets-spelled"


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """An error handler of `codecs`: the replacement for characters that cannot be encoded, and the position after them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(SPELLINGS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in part), error.end


codecs.register_error(HANDLER, _spelled)


def prepare() -> None:
    """Make the standard streams of this process safe to write to; for the command line, which owns them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened would get this number, and what libraries print would go into it.
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def finish() -> bool:
    """Flush the standard streams; if that fails, drop their content. Returns whether all was written."""
    whole = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            whole = False
            _drop(stream)
    return whole


def _drop(stream: Any) -> None:
    """Redirect a stream to the null device, so that the interpreter's flush at its end raises no error."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        pass


class Tolerant:
    """A text stream that replaces characters that its encoding lacks; everything else is delegated to the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            return self._stream.write(text.encode(encoding, HANDLER).decode(encoding))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tolerant(stream: TextIO | None) -> Any:
    """A stream that accepts any character; None if there is no stream, as in a program without a console."""
    return None if stream is None else Tolerant(stream)


def say(text: str) -> None:
    """Print a line on stderr. A closed stderr is no error: a run continues without it."""
    stream = tolerant(sys.stderr)
    if stream is None:
        return
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except (OSError, ValueError):
        pass


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False
