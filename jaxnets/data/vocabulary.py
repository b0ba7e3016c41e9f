"""Words and characters as tokens: vocabularies, and lines filled up with padding."""

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from jaxnets.contracts import Tokens
from jaxnets.errors import DataError
from jaxnets.ops.tokens import END, PAD, SPECIAL, UNKNOWN

# A word with the hyphens and apostrophes inside it, or one sign of punctuation.
_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


def split_words(text: str) -> list[str]:
    """The words and signs of a text, in lower case."""
    return _WORD.findall(text.lower())


def build_vocabulary(lines: Iterable[Sequence[str]], *, least: int = 1) -> tuple[str, ...]:
    """The special tokens, then those seen at least `least` times, the most frequent first (else by alphabet)."""
    counts = Counter(token for line in lines for token in line)
    kept = [token for token, count in counts.items() if count >= least and token not in SPECIAL]
    return (*SPECIAL, *sorted(kept, key=lambda token: (-counts[token], token)))


def encode_lines(lines: Sequence[Sequence[str]], names: Sequence[str], length: int, *, ends: bool) -> np.ndarray:
    """Numbers `[lines, length]` uint16, filled up with 0, the end token after the last where `ends`; a line that does not fit
    is cut."""
    numbers = {name: number for number, name in enumerate(names)}
    ids = np.full((len(lines), length), PAD, np.uint16)
    for row, line in zip(ids, lines, strict=True):
        found = [numbers.get(token, UNKNOWN) for token in line] + [END] * ends
        row[: len(found)] = found[:length]
    return ids


def encode_text(text: str, tokens: Tokens) -> np.ndarray:
    """The numbers `[1, S]` int32 of one text that a person has typed.

    Raises:
        DataError: nothing to read, or a character that the model does not know (an unknown word has a token of its own).
    """
    line = list(text.strip().lower()) if tokens.unit == "characters" else split_words(text)
    if not line:
        raise DataError("the text is empty, and a source has at least one token; give some text")
    unknown = sorted(set(line) - set(tokens.names))
    if unknown and tokens.unit == "characters":
        raise DataError(
            f"the model knows {len(tokens.names) - len(SPECIAL)} characters, and {unknown[0]!r} is none of them; leave it out"
        )
    return encode_lines([line], tokens.names, len(line), ends=False).astype(np.int32)


def read_lines(path: Path) -> list[str]:
    """The lines of a text in UTF-8, gzipped or plain; raises `DataError` where it is damaged."""
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8").strip().split("\n")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as text in UTF-8 ({type(error).__name__}: {error}); delete it and fetch it again"
        ) from error
