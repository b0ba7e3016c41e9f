"""Text to numbers and back: bytes, characters, and the tokenizer files of other libraries.

Files are read by the libraries that define them, `tokenizers` and `sentencepiece`, which come with the extra `text`
(`pip install jaxnets[text]`) and are imported when a text is first encoded.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxnets.data.download import Remote, obtain_file
from jaxnets.errors import DataError, first_line
from jaxnets.files import user_path

_GPT2 = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
GPT2_FILES = {
    "tokenizers/gpt2_encoder.json": Remote(
        f"{_GPT2}encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    ),
    "tokenizers/gpt2_vocab.bpe": Remote(
        f"{_GPT2}vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    ),
}
# What a pair of files is called: the ending of the one with the pieces, and that of the one with the merges.
PAIRS = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
KINDS = (
    "characters, bytes, gpt2, or the path of a tokenizer.json, of a vocab.json beside its merges.txt (an encoder.json "
    "beside its vocab.bpe), of a SentencePiece .model, or of a folder that holds one of them"
)
# No vocabulary is larger; a file that numbers its pieces beyond is damaged.
LARGEST = 2**24
# Pieces that begin or end a text, in the files that mark them by name alone.
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<|im_end|>")


class Tokenizer(Protocol):
    """What all of them offer."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """What each number stands for, to be shown to people."""

    @property
    def special(self) -> Mapping[str, int]:
        """Numbers of the tokens that are no text, as far as the file says: "begin", "end", "unknown", "padding"."""

    @property
    def digest(self) -> str:
        """SHA-256 of the files; "" where there is none."""

    @property
    def files(self) -> Mapping[str, Path]:
        """The files, by the name under which the Hugging Face libraries look for them."""

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text, int32 `[T]`; nothing is put before or after it."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of tokens; raises `DataError` for a number that is none."""


class _Numbered:
    """What a tokenizer has in common with the others: its numbers are checked, and it has no files and marks no ends."""

    symbols: tuple[str, ...]
    special: Mapping[str, int] = {}
    digest = ""
    files: Mapping[str, Path] = {}

    def _checked(self, ids: Sequence[int] | np.ndarray) -> list[int]:
        numbers = [int(i) for i in ids]
        for number in numbers:
            if not 0 <= number < len(self.symbols):
                raise DataError(
                    f"token {number} is outside of a vocabulary of {len(self.symbols)}, whose tokens are 0 to "
                    f"{len(self.symbols) - 1}; use the tokenizer that the text was encoded with"
                )
        return numbers


@dataclasses.dataclass(frozen=True)
class Bytes(_Numbered):
    """The 256 bytes of UTF-8: every text can be written, and nothing is learned from a file."""

    @functools.cached_property
    def symbols(self) -> tuple[str, ...]:  # type: ignore[override]
        """Printable ASCII as it is, else `\\x0a`."""
        return tuple(chr(b) if 32 <= b < 127 else f"\\x{b:02x}" for b in range(256))

    def encode(self, text: str) -> np.ndarray:
        """One number for each byte."""
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """What is no UTF-8 becomes the replacement character."""
        return bytes(self._checked(ids)).decode("utf-8", errors="replace")


@dataclasses.dataclass(frozen=True)
class Characters(_Numbered):
    """The characters of one text, numbered in their order."""

    symbols: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "Characters":
        """Those that occur in a text."""
        return cls(tuple(sorted(set(text))))

    def encode(self, text: str) -> np.ndarray:
        """One number for each character; raises `DataError` for one that is not among the symbols."""
        order = np.array([ord(s) for s in self.symbols], np.uint32)
        codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)
        found = np.searchsorted(order, codes)
        wrong = order[np.minimum(found, len(order) - 1)] != codes
        if wrong.any():
            place = int(wrong.argmax())
            raise DataError(
                f"the model knows {len(self.symbols)} characters, and {text[place]!r} (at {place}) is none of them; leave "
                f"it out, or train with data.tokens=bytes, which can write everything"
            )
        return found.astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The characters in a row."""
        return "".join(self.symbols[i] for i in self._checked(ids))


class LibraryFile(_Numbered):
    """A tokenizer of the `tokenizers` library: a `tokenizer.json`, or GPT-2's pair of pieces and merges."""

    def __init__(self, path: Path, merges: Path | None = None) -> None:
        self._path, self._merges = path, merges
        names = ("vocab.json", "merges.txt") if merges else ("tokenizer.json",)
        self.files = dict(zip(names, [path, merges] if merges else [path], strict=True))
        self._content = {file: _read(file) for file in self.files.values()}
        self.digest = _digest(self._content.values())
        try:
            self._data: Any = json.loads(self._content[path])
            pieces = self._data if merges else self._pieces(self._data)
            bytewise = bool(merges) or "ByteLevel" in json.dumps(self._data.get("decoder"))
            self.symbols = _in_order(path, pieces, show=_show_bytes if bytewise else _show_spaces)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{path} is no vocabulary ({type(error).__name__}: {first_line(error)}); data.tokens is {KINDS}"
            ) from error
        end = next((name for name in ENDS if name in pieces), None)
        self.special = {} if end is None else {"end": pieces[end]}

    @staticmethod
    def _pieces(data: Any) -> dict[str, int]:
        """All pieces of a `tokenizer.json` with their numbers; those of a unigram model are in their order."""
        vocabulary = data["model"]["vocab"]
        if isinstance(vocabulary, list):
            vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
        return {**vocabulary, **{entry["content"]: entry["id"] for entry in data.get("added_tokens") or []}}

    @functools.cached_property
    def _library(self) -> Any:
        try:
            import tokenizers
        except ImportError:
            raise _missing("tokenizers", self._path) from None
        try:
            if self._merges is None:
                made = tokenizers.Tokenizer.from_str(self._content[self._path].decode("utf-8"))
                # Settings for batches of sentences, which many files carry: a whole text would be cut after the first 512.
                made.no_truncation()
                made.no_padding()
                return made
            lines = self._content[self._merges].decode("utf-8").split("\n")
            merges: Any = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
            made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=self._data, merges=merges))
            made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
            made.decoder = tokenizers.decoders.ByteLevel()
            made.add_special_tokens([name for name in ENDS if name in self._data])
            return made
        except Exception as error:  # the library raises bare Exception
            raise DataError(
                f"{' and '.join(map(str, self.files.values()))} cannot be read by the tokenizers library ("
                f"{first_line(error)}); take files that it wrote, or GPT-2's"
            ) from error

    def encode(self, text: str) -> np.ndarray:
        """As the library does, without the tokens that some files put around a text."""
        return np.array(self._library.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """As the library does; special tokens are shown."""
        return self._library.decode(self._checked(ids), skip_special_tokens=False)


class SentencePiece(_Numbered):
    """A SentencePiece `.model` file; see Kudo and Richardson 2018. What it normalises is not undone by `decode`."""

    def __init__(self, path: Path) -> None:
        self._path, self.files = path, {"tokenizer.model": path}
        content = _read(path)
        self.digest = _digest([content])
        try:
            import sentencepiece
        except ImportError:
            raise _missing("sentencepiece", path) from None
        try:
            self._library: Any = sentencepiece.SentencePieceProcessor(model_proto=content)
            pieces = self._library.id_to_piece(list(range(len(self._library))))
        except Exception as error:  # RuntimeError of its C++
            raise DataError(
                f"{path} is no SentencePiece model ({first_line(error)}); data.tokens is {KINDS}"
            ) from error
        self.symbols = tuple(_show_spaces(piece) for piece in pieces)
        roles = {"begin": "bos_id", "end": "eos_id", "unknown": "unk_id", "padding": "pad_id"}
        numbers = {role: getattr(self._library, name)() for role, name in roles.items()}
        self.special = {role: number for role, number in numbers.items() if number >= 0}

    def encode(self, text: str) -> np.ndarray:
        """As the library does, with no begin and no end."""
        return np.array(self._library.encode(text), np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """As the library does."""
        return self._library.decode(self._checked(ids))


def open_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a name or a path; see `KINDS`. (Characters are those of a text: `Characters.of`.)

    Raises:
        DataError: no such file, a file of another kind, or a package that is not installed.
    """
    if name == "bytes":
        return Bytes()
    if name == "gpt2":
        pieces, merges = (obtain_file(path, remote) for path, remote in GPT2_FILES.items())
        return LibraryFile(pieces, merges)
    path = user_path(name)
    if path.is_dir():
        held = ("tokenizer.json", *PAIRS, "tokenizer.model")
        path = next((path / file for file in held if (path / file).is_file()), path)
    if not path.is_file():
        raise DataError(f"there is no tokenizer file {str(path)!r}; data.tokens is {KINDS}")
    if path.suffix == ".model":
        return SentencePiece(path)
    for pieces_end, merges_end in PAIRS.items():
        for given, other in ((pieces_end, merges_end), (merges_end, pieces_end)):
            if path.name.endswith(given):
                partner = path.with_name(path.name.removesuffix(given) + other)
                if not partner.is_file():
                    raise DataError(f"{path} goes with {partner}, which is not there; put it beside")
                return LibraryFile(path, partner) if given == pieces_end else LibraryFile(partner, path)
    if path.suffix == ".json":
        return LibraryFile(path)
    raise DataError(f"{name!r} is no tokenizer file by its name; data.tokens is {KINDS}")


def narrowest(size: int) -> Any:
    """The integer type that token ids of a vocabulary are kept in."""
    return np.uint16 if size <= 2**16 else np.uint32


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the tokenizer file {path} cannot be read ({error}); check data.tokens") from error


def _digest(contents: Any) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _missing(package: str, path: Path) -> DataError:
    return DataError(f"{path} needs the package {package}, which is not installed; run `pip install jaxnets[text]`")


def _in_order(path: Path, pieces: Mapping[str, int], *, show: Any) -> tuple[str, ...]:
    """The pieces in the order of their numbers; a number that none has is shown as such."""
    numbers = list(pieces.values())
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < LARGEST for n in numbers):
        raise DataError(
            f"{path} is no vocabulary: its pieces are numbered from 0, below {LARGEST}; data.tokens is {KINDS}"
        )
    symbols = [f"<{number}>" for number in range(max(numbers) + 1)]
    for piece, number in pieces.items():
        symbols[number] = show(piece)
    return tuple(symbols)


def _show_spaces(piece: str) -> str:
    return piece.replace("\u2581", " ")


@functools.cache
def _byte_of() -> dict[str, int]:
    """The bytes that GPT-2's pieces are written with: printable ones as they are, the rest from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + index): b for index, b in enumerate(rest)}


def _show_bytes(piece: str) -> str:
    """A byte-level piece as text; a part of a character as the bytes it is."""
    table = _byte_of()
    if not all(character in table for character in piece):
        return piece  # a special token
    return bytes(table[character] for character in piece).decode("utf-8", errors="backslashreplace")
