"""The standard streams as they are on people's machines: closed, full, or in an encoding that lacks a character.

What is written there is for reading, and never worth a run: a character that an encoding lacks is spelled in ASCII, and a
stream that takes nothing any more is left alone.
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
    """An error handler of `codecs`: what to write for characters that cannot be encoded, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(SPELLINGS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in part), error.end


codecs.register_error(HANDLER, _spelled)


def prepare() -> None:
    """Make the standard streams of this process fit to be written to; for the command line, which owns them."""
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
    """Write out what the standard streams still hold; where that fails, drop it. Returns whether all was written."""
    whole = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            whole = False
            _drop(stream)
    return whole


def _drop(stream: Any) -> None:
    """Let a stream's file be the one that takes everything, so that the interpreter's own flush at its end is quiet."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        pass


class Tolerant:
    """A text stream that spells what its encoding lacks; all else is the stream's own."""

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
    """A stream that takes any character; None where there is no stream, as in a program without a console."""
    return None if stream is None else Tolerant(stream)


def say(text: str) -> None:
    """Print a line on stderr. A closed stderr is no error: a run goes on without it."""
    stream = tolerant(sys.stderr)
    if stream is None:
        return
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except (OSError, ValueError):
        pass


def is_terminal(stream: Any) -> bool:
    """Whether someone watches a stream."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False
