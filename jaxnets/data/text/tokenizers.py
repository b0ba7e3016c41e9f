"""Tokenizers: bytes, characters, and the tokenizer files of other libraries (`tokenizer_files.py`)."""

import dataclasses
import functools
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxnets.core.download import Remote, obtain_file
from jaxnets.core.errors import DataError
from jaxnets.core.files import user_path
from jaxnets.data.text.token_names import Numbered
from jaxnets.data.text.tokenizer_files import KINDS, PAIRS, LibraryFile, SentencePiece

_GPT2 = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
GPT2_FILES = {
    "tokenizers/gpt2_encoder.json": Remote(
        f"{_GPT2}encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    ),
    "tokenizers/gpt2_vocab.bpe": Remote(
        f"{_GPT2}vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    ),
}


class Tokenizer(Protocol):
    """The protocol of all tokenizers."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """The printable name of each token, by id."""

    @property
    def special(self) -> Mapping[str, int]:
        """Ids of the special tokens in the files, by role: "begin", "end", "unknown", "padding"."""

    @property
    def digest(self) -> str:
        """SHA-256 of the files; "" if there are none."""

    @property
    def files(self) -> Mapping[str, Path]:
        """The files, by the name that the Hugging Face libraries expect."""

    def encode(self, text: str) -> np.ndarray:
        """The token ids of a text, int32 `[T]`, without begin and end tokens."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of token ids; raises `DataError` for an id outside the vocabulary."""


@dataclasses.dataclass(frozen=True)
class Bytes(Numbered):
    """The 256 bytes of UTF-8: encodes every text, and needs no file."""

    @functools.cached_property
    def symbols(self) -> tuple[str, ...]:  # type: ignore[override]
        """Printable ASCII characters as themselves, other bytes as `\\x0a`."""
        return tuple(chr(b) if 32 <= b < 127 else f"\\x{b:02x}" for b in range(256))

    def encode(self, text: str) -> np.ndarray:
        """One id per byte; raises `DataError` for a lone surrogate."""
        try:
            return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)
        except UnicodeEncodeError as error:
            raise DataError(
                f"the text has a lone surrogate, {text[error.start]!r} (at {error.start}), which UTF-8 cannot encode; remove "
                f"it"
            ) from error

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Invalid UTF-8 becomes the replacement character."""
        return bytes(self._checked(ids)).decode("utf-8", errors="replace")


@dataclasses.dataclass(frozen=True)
class Characters(Numbered):
    """The characters of one text, numbered in sorted order."""

    symbols: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "Characters":
        """The tokenizer of the characters in a text."""
        return cls(tuple(sorted(set(text))))

    def encode(self, text: str) -> np.ndarray:
        """One id per character; raises `DataError` for a character that is not in `symbols`."""
        order = np.array([ord(s) for s in self.symbols], np.uint32)
        codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)
        found = np.searchsorted(order, codes)
        wrong = order[np.minimum(found, len(order) - 1)] != codes
        if wrong.any():
            place = int(wrong.argmax())
            composed = unicodedata.normalize("NFC", text)
            hint = "normalise the text to NFC first" if set(composed) <= set(self.symbols) else "remove it"
            raise DataError(
                f"the model knows {len(self.symbols)} characters, and {text[place]!r} (at {place}) is not one of them; "
                f"{hint}, or train with data.tokens=bytes, which encodes any text"
            )
        return found.astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The characters of token ids."""
        return "".join(self.symbols[i] for i in self._checked(ids))


def open_tokenizer(name: str) -> Tokenizer:
    """Open a tokenizer by name or path; see `KINDS`. (For characters use `Characters.of`.)

    Raises:
        DataError: the file is missing or of another kind, or a package is not installed.
    """
    if name == "bytes":
        return Bytes()
    if name == "gpt2":
        pieces, merges = (obtain_file(path, remote) for path, remote in GPT2_FILES.items())
        return LibraryFile(pieces, merges)
    path = user_path(name)
    if path.is_dir():
        held = ("tokenizer.json", *PAIRS, "vocab.txt", "tokenizer.model", "spiece.model")
        path = next((path / file for file in held if (path / file).is_file()), path)
    if not path.is_file():
        raise DataError(f"there is no tokenizer file {str(path)!r}; data.tokens is {KINDS}")
    if path.name == "vocab.txt":
        return LibraryFile(path)
    if path.suffix == ".model":
        return SentencePiece(path)
    for pieces_end, merges_end in PAIRS.items():
        for given, other in ((pieces_end, merges_end), (merges_end, pieces_end)):
            if path.name.endswith(given):
                partner = path.with_name(path.name.removesuffix(given) + other)
                if not partner.is_file():
                    raise DataError(f"{path} needs {partner}, which does not exist; put it there")
                return LibraryFile(path, partner) if given == pieces_end else LibraryFile(partner, path)
    if path.suffix == ".json":
        return LibraryFile(path)
    raise DataError(f"{name!r} is not a tokenizer file by its name; data.tokens is {KINDS}")
