"""Printable names of tokens, and the base class of the tokenizers."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError

# Upper bound of vocabulary sizes; a file with larger ids is damaged.
LARGEST = 2**24


class Numbered:
    """Base class of the tokenizers: checks ids; by default there are no files and no special tokens."""

    symbols: tuple[str, ...]
    special: Mapping[str, int] = {}
    digest = ""
    files: Mapping[str, Path] = {}

    def _checked(self, ids: Sequence[int] | np.ndarray) -> list[int]:
        numbers = [int(i) for i in ids]
        for number in numbers:
            if not 0 <= number < len(self.symbols):
                raise DataError(
                    f"token {number} is outside the vocabulary of {len(self.symbols)} tokens, 0 to "
                    f"{len(self.symbols) - 1}; use the tokenizer that encoded the text"
                )
        return numbers


def digest_of(contents: Any) -> str:
    """SHA-256 of the digests of several byte strings."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def in_order(path: Path, pieces: Mapping[str, int], *, show: Any, kinds: str) -> tuple[str, ...]:
    """The printable pieces by id; an id without a piece is shown as `<id>`."""
    numbers = list(pieces.values())
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < LARGEST for n in numbers):
        raise DataError(
            f"{path} is not a vocabulary: ids must be integers from 0 to {LARGEST - 1}; data.tokens is {kinds}"
        )
    symbols = [f"<{number}>" for number in range(max(numbers) + 1)]
    for piece, number in pieces.items():
        symbols[number] = show(piece)
    return tuple(symbols)


def show_spaces(piece: str) -> str:
    """A SentencePiece piece as text."""
    return piece.replace("\u2581", " ")


@functools.cache
def _byte_of() -> dict[str, int]:
    """GPT-2's characters for bytes: printable bytes are themselves, the rest start at U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + index): b for index, b in enumerate(rest)}


def byte_letter(byte: int) -> str:
    """GPT-2's character for a byte."""
    return _letters()[byte]


@functools.cache
def _letters() -> tuple[str, ...]:
    return tuple(sorted(_byte_of(), key=_byte_of().__getitem__))


def show_bytes(piece: str) -> str:
    """A byte-level piece as text; bytes of an incomplete character are escaped."""
    table = _byte_of()
    if not all(character in table for character in piece):
        return piece  # a special token
    return bytes(table[character] for character in piece).decode("utf-8", errors="backslashreplace")
