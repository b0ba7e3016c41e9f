"""Text as tokens: a file of characters or bytes, cut into windows."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from jaxnets.data.dataset import Dataset, Source, TokenIds
from jaxnets.data.download import Remote, obtain_file
from jaxnets.errors import DataError

SHAKESPEARE = Remote(
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


@dataclasses.dataclass(frozen=True)
class Text(Source):
    """A text, its first part for training and its end for the test; a token is a character or a byte."""

    path: str = "shakespeare"
    """A text file in UTF-8, or "shakespeare" (1.1 MB of his plays; found through JAXNETS_DATA, else downloaded)."""
    length: int = 64
    """Tokens of a training window."""
    tokens: Literal["characters", "bytes"] = "characters"
    """characters: each that occurs gets a number, in their order; bytes: 256 of them."""
    holdout: float = 0.1
    """Share of the text, at its end, that is kept for the test, in (0, 1)."""
    stride: int = 0
    """Tokens from one training window to the next; 0: half a window. Test windows do not overlap."""

    def open(self) -> Dataset:
        """Windows `[length]` uint16 and, as targets, the same shifted by one token."""
        if self.length < 1 or self.stride < 0:
            raise DataError(
                f"a window has at least 1 token and a stride at least 0, got {self.length} and {self.stride}"
            )
        if not 0 < self.holdout < 1:
            raise DataError(f"holdout is a share in (0, 1), got {self.holdout}")
        text, source = self._read()
        ids, symbols = encode_characters(text) if self.tokens == "characters" else encode_bytes(text)
        cut = int(len(ids) * (1 - self.holdout))
        parts = {"training": ids[:cut], "test": ids[cut:]}
        for split, part in parts.items():
            if len(part) <= self.length:
                raise DataError(
                    f"{self.path!r} is too short: its {split} part has {len(part)} tokens, and a window needs {self.length} "
                    f"and the one after; use a longer text or a smaller length"
                )
        stride = self.stride or max(1, self.length // 2)
        return Dataset(
            name=Path(self.path).stem,
            train=windows(parts["training"], self.length, stride),
            test=windows(parts["test"], self.length, self.length),
            class_names=symbols,
            target_kind="token",
            target_name="next token",
            prepare=TokenIds(),
            source=source,
        )

    def _read(self) -> tuple[str, str]:
        if self.path == "shakespeare":
            path, source = obtain_file("text/tinyshakespeare.txt", SHAKESPEARE), SHAKESPEARE.url
        else:
            path, source = Path(self.path), self.path
        try:
            text = path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            raise DataError(f"there is no text file {self.path!r}; check data.path") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path!r} cannot be read as UTF-8 text ({error}); convert it to UTF-8") from error
        if not text:
            raise DataError(f"{self.path!r} is empty; give a text")
        return text, source


def windows(ids: np.ndarray, length: int, stride: int) -> dict[str, np.ndarray]:
    """Inputs and targets `[windows, length]`: every `stride` tokens one, and the last one ends with the text."""
    starts = np.arange(0, len(ids) - length, stride)
    if starts[-1] != len(ids) - length - 1 and stride < length:
        starts = np.append(starts, len(ids) - length - 1)
    index = starts[:, None] + np.arange(length)
    return {"inputs": ids[index], "targets": ids[index + 1]}


def encode_characters(text: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers of the characters, uint16, and the characters in the order of their numbers."""
    symbols = tuple(sorted(set(text)))
    if len(symbols) > 2**16:
        raise DataError(f"the text has {len(symbols)} different characters, more than {2**16}; use tokens='bytes'")
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    order = np.array([ord(s) for s in symbols], np.uint32)
    return np.searchsorted(order, codes).astype(np.uint16), symbols


def encode_bytes(text: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The bytes of the text in UTF-8, uint16, and names for all 256."""
    names = tuple(chr(b) if 32 <= b < 127 else f"\\x{b:02x}" for b in range(256))
    return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.uint16), names


def decode(ids: np.ndarray, symbols: tuple[str, ...]) -> str:
    """The text of tokens of either kind."""
    if len(symbols) == 256 and symbols[10] == "\\x0a":
        return bytes(int(i) for i in ids).decode("utf-8", errors="replace")
    return "".join(symbols[int(i)] for i in ids)


def encode(text: str, symbols: tuple[str, ...]) -> np.ndarray:
    """The tokens of a text, int32; raises `DataError` for a character that is not among the symbols."""
    if len(symbols) == 256 and symbols[10] == "\\x0a":
        return encode_bytes(text)[0].astype(np.int32)
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    unknown = sorted(set(text) - numbers.keys())
    if unknown:
        raise DataError(
            f"the model knows {len(symbols)} characters, and {unknown[0]!r} is none of them; leave it out of the prompt"
        )
    return np.array([numbers[c] for c in text], np.int32)
