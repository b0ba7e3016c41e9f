"""Text as tokens, cut into windows: from a text file or from a file of token ids."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxnets.core.download import Remote, locate, obtain_file
from jaxnets.core.errors import DataError, note
from jaxnets.core.files import user_path
from jaxnets.data.dataset import Dataset, Source, TokenIds
from jaxnets.data.large import is_stored
from jaxnets.data.text.textfile import read_text
from jaxnets.data.text.token_files import read_parts
from jaxnets.data.text.tokenizers import Characters, Tokenizer, open_tokenizer
from jaxnets.data.text.vocabulary import narrowest
from jaxnets.data.windows import document_windows, lazy_windows

SHAKESPEARE = Remote(
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)
GPT2_SIZE = 50257
GPT2_END = 50256  # <|endoftext|>


@dataclasses.dataclass(frozen=True)
class Text(Source):
    """A text as characters, bytes or tokenizer pieces; the start is for training, the end for the test."""

    path: str = "shakespeare"
    """A text file (see `data.text.textfile.read_text`), or "shakespeare" (1.1 MB of his plays; found through JAXNETS_DATA,
    else downloaded)."""
    length: int = 64
    """Tokens of a training window."""
    tokens: str = "characters"
    """characters: those of the text, numbered in sorted order; bytes: 256 of them; gpt2; or the path of a tokenizer
    file: tokenizer.json, vocab.json beside merges.txt, vocab.txt, or a SentencePiece .model."""
    holdout: float = 0.1
    """Share of the characters in the test split, at the end of the text, in (0, 1)."""
    stride: int = 0
    """Tokens from one training window to the next; 0: half a window. Test windows do not overlap."""
    documents: Literal["joined", "packed", "apart"] = "joined"
    """joined: windows ignore where documents end; packed: they may hold several, and attention does not cross the end token
    between them; apart: a window has tokens of one document, and the last one of each is filled up."""

    def open(self) -> Dataset:
        """Windows `[length]` uint16 (uint32 for large vocabularies); targets are the same windows shifted by one token."""
        if not 0 < self.holdout < 1:
            raise DataError(f"holdout is a share in (0, 1), got {self.holdout}")
        text, source = self._read()
        tokenizer = Characters.of(text) if self.tokens == "characters" else open_tokenizer(self.tokens)
        cut = int(len(text) * (1 - self.holdout))
        parts = {"training": tokenizer.encode(text[:cut]), "test": tokenizer.encode(text[cut:])}
        _note_unseen(self.path, parts, tokenizer)
        return from_tokens(
            parts["training"],
            parts["test"],
            tokenizer,
            name=Path(self.path).stem,
            source=source,
            length=self.length,
            stride=self.stride,
            documents=self.documents,
        )

    def _read(self) -> tuple[str, str]:
        if self.path == "shakespeare":
            path, source = obtain_file("text/tinyshakespeare.txt", SHAKESPEARE), SHAKESPEARE.url
        else:
            path, source = user_path(self.path), self.path
        text = read_text(path)
        if not text:
            raise DataError(f"{self.path!r} is empty; give a text")
        return text, source


@dataclasses.dataclass(frozen=True)
class TokenFile(Source):
    """Token ids from files: an `.npz` with one array per split, or one `.bin` (nanoGPT, llm.c) or `.npy` file per split."""

    path: str
    """The `.npz`; or the `.bin` or `.npy` of the training split, with "train" in its name and the test file beside it (e.g.
    val.bin); or the folder that holds such a pair."""
    train: str = "train"
    """Name of the training array in an `.npz`, integers `[tokens]`."""
    test: str = "test"
    """Name of the test array in an `.npz`. With `.bin` or `.npy`: the name of the test file, if it is not found by its usual
    names."""
    tokens: str = "gpt2"
    """The tokenizer that made the ids, as in `Text`."""
    length: int = 1024
    """Tokens of a window."""
    stride: int = 0
    """Tokens from one training window to the next; 0: half a window. Test windows do not overlap."""
    dtype: Literal["uint16", "uint32"] = "uint16"
    """Integers of a `.bin` without a header, as nanoGPT writes it."""
    documents: Literal["joined", "packed", "apart"] = "joined"
    """joined: windows ignore where documents end; packed: they may hold several, and attention does not cross the end token
    between them; apart: a window has tokens of one document, and the last one of each is filled up."""

    def open(self) -> Dataset:
        """Windows as in `Text`."""
        if self.tokens == "characters":
            raise DataError(
                "tokens=characters needs the text, and a file of token ids does not hold it; name the tokenizer that made "
                "the tokens in data.tokens, or train on the text itself: Text(path=...), which numbers characters in sorted "
                "order, as nanoGPT does"
            )
        train, test = read_parts(Path(self.path), self.train, self.test, self.dtype)
        return from_tokens(
            train,
            test,
            open_tokenizer(self.tokens),
            name=Path(self.path).stem,
            source=self.path,
            length=self.length,
            stride=self.stride,
            documents=self.documents,
        )


# Array names in text/gpt2_tokens.npz, and the numbers of training and test tokens.
PREPARED = {
    "shakespeare": ("tinyshakespeare", 301_966, 36_059),
    "books": ("books", 3_677_884, 273_110),
    "c4": ("c4", 443_918, 81_276),
}


@dataclasses.dataclass(frozen=True)
class GPT2Tokens(Source):
    """Shakespeare, 31 whole books or 1,200 web pages as GPT-2 tokens, from `text/gpt2_tokens.npz` in JAXNETS_DATA."""

    text: Literal["shakespeare", "books", "c4"] = "shakespeare"
    """shakespeare: 0.3 million training tokens; books: 3.7 million; c4: 0.4 million."""
    length: int = 1024
    """Tokens of a window."""
    stride: int = 0
    """Tokens from one training window to the next; 0: half a window. Test windows do not overlap."""
    documents: Literal["joined", "packed"] = "joined"
    """As in `Text`. Books and pages end with GPT-2's end token; Shakespeare is one document."""

    def open(self) -> Dataset:
        """Windows as in `Text`; without the file, Shakespeare is tokenised here."""
        path, name = locate("text/gpt2_tokens.npz"), PREPARED[self.text][0]
        if path is None and self.text == "shakespeare":
            return Text(length=self.length, tokens="gpt2", stride=self.stride, documents=self.documents).open()
        if path is None:
            raise DataError(
                f"text/gpt2_tokens.npz, which holds {self.text!r}, is not on this machine; set JAXNETS_DATA to a folder that "
                f"has it, or use your own text file: Text(path=..., tokens='gpt2')"
            )
        made = TokenFile(
            str(path),
            train=f"{name}_train",
            test=f"{name}_val",
            length=self.length,
            stride=self.stride,
            documents=self.documents,
        )
        return dataclasses.replace(made.open(), name=f"{self.text} in GPT-2 tokens")

    def outline(self) -> Dataset:
        """The shapes of `open`, without the tokens."""
        _, train, test = PREPARED[self.text]
        splits: dict[str, Any] = {}
        for split, count, stride in (("train", train, _stride(self)), ("test", test, self.length)):
            _check_windows(self.text, split, count, self.length, self.stride)
            shape = (len(_starts(count, self.length, stride)), self.length)
            zeros = np.broadcast_to(np.uint16(0), shape)
            splits[split] = {"inputs": zeros, "targets": zeros}
        names = tuple(map(str, range(GPT2_SIZE)))
        return Dataset(
            f"{self.text} in GPT-2 tokens",
            **splits,
            class_names=names,
            target_kind="token",
            prepare=TokenIds(),
            separator=GPT2_END if self.documents == "packed" else None,
        )


def from_tokens(
    train: np.ndarray, test: np.ndarray, tokenizer: Tokenizer, *, name: str, source: str, length: int, stride: int = 0,
    documents: str = "joined",
) -> Dataset:  # fmt: skip
    """A data set of windows of token ids `[T]`; raises `DataError` for invalid ids or too few of them.

    Windows of a large memory-mapped file are cut when their batch comes. `documents` as in `Text`.
    """
    size, parts, end = len(tokenizer.symbols), {}, _end_token(name, tokenizer, documents)
    for split, ids in (("training", train), ("test", test)):
        _check_windows(name, split, len(ids), length if documents != "apart" else 1, stride)
        step = length if split == "test" else stride or max(1, length // 2)
        what = f"{name}: its {split} part"
        how: dict[str, Any] = {"length": length, "stride": step, "size": size, "dtype": narrowest(size)}
        mapped = is_stored(ids)
        _check_kind(what, ids)
        if not mapped:
            _check_ids(what, ids, size)
        if documents == "apart":
            parts[split] = document_windows(ids, what, end=end, **how)
        elif mapped:
            parts[split] = lazy_windows(ids, what, **how)
        else:
            parts[split] = windows(ids.astype(narrowest(size), copy=False), length, step)
    return Dataset(
        name=name,
        train=parts["training"],
        test=parts["test"],
        class_names=tokenizer.symbols,
        target_kind="token",
        target_name="next token",
        prepare=TokenIds(),
        source=source + (_left_out(len(test), length) if documents != "apart" else ""),
        separator=end if documents == "packed" else None,
        overlap=-(-length // (stride or max(1, length // 2))) - 1,
        tokenizer=tokenizer,
    )


def _end_token(name: str, tokenizer: Tokenizer, documents: str) -> int | None:
    """The token that ends a document; None if it does not matter where documents end."""
    if documents == "joined":
        return None
    end = tokenizer.special.get("end")
    if end is None:
        raise DataError(
            f"{name}: documents={documents!r} needs a token that ends a document, and its tokenizer has none; name one that "
            f"has (gpt2, or a folder with tokenizer_config.json), or take documents='joined'"
        )
    return end


def _note_unseen(path: str, parts: dict[str, np.ndarray], tokenizer: Tokenizer) -> None:
    """Write notes about unknown tokens, and about characters that occur only in the test part."""
    # GPT-2's files use the end token as unknown token too; its encoder never produces an unknown token.
    unknown = tokenizer.special.get("unknown")
    unknown = None if unknown == tokenizer.special.get("end") else unknown
    count = sum(int((ids == unknown).sum()) for ids in parts.values()) if unknown is not None else 0
    if count:
        note(f"{path}: {count:,} of {sum(map(len, parts.values())):,} tokens are unknown to the tokenizer")
    if isinstance(tokenizer, Characters):
        unseen = np.setdiff1d(parts["test"], parts["training"])
        if len(unseen):
            shown = ", ".join(repr(tokenizer.symbols[i]) for i in unseen[:5]) + (", ..." if len(unseen) > 5 else "")
            places = int(np.isin(parts["test"], unseen).sum())
            note(
                f"{path}: {len(unseen)} characters of the test part ({shown}; {places:,} places) do not occur in the training "
                f"part, so no model can have learned them"
            )


def _left_out(count: int, length: int) -> str:
    """A sentence about the test tokens after the last full window; "" if there are none."""
    rest = (count - 1) % length
    return f"; the last {rest} of {count:,} test tokens fill no window and are left out" if rest else ""


def _check_windows(name: str, split: str, count: int, length: int, stride: int) -> None:
    if length < 1 or stride < 0:
        raise DataError(f"a window has at least 1 token and a stride at least 0, got {length} and {stride}")
    if count <= length:
        raise DataError(
            f"{name!r} is too short: its {split} part has {count} tokens, and a window needs {length} and the next one; use "
            f"a longer text or a smaller length"
        )


def windows(ids: np.ndarray, length: int, stride: int) -> dict[str, np.ndarray]:
    """Inputs and targets `[windows, length]`; a window starts every `stride` tokens.

    If windows overlap, a last window ends at the end of the text; if not, the last `(len - 1) % length` tokens are left out.
    """
    index = _starts(len(ids), length, stride)[:, None] + np.arange(length)
    return {"inputs": ids[index], "targets": ids[index + 1]}


def _starts(count: int, length: int, stride: int) -> np.ndarray:
    starts = np.arange(0, count - length, stride)
    if starts[-1] != count - length - 1 and stride < length:
        starts = np.append(starts, count - length - 1)
    return starts


def _stride(source: GPT2Tokens) -> int:
    return source.stride or max(1, source.length // 2)


def _check_ids(what: str, ids: np.ndarray, size: int) -> None:
    if len(ids) and not 0 <= ids.min() <= ids.max() < size:
        place = int(((ids < 0) | (ids >= size)).argmax())
        raise DataError(
            f"{what} has token {ids[place]} at {place}, outside of a vocabulary of {size} (0 to {size - 1}); name the "
            f"tokenizer that made the tokens in data.tokens"
        )


def _check_kind(what: str, ids: np.ndarray) -> None:
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(f"{what} is {ids.dtype}{list(ids.shape)}; token ids are a one-dimensional array of integers")
