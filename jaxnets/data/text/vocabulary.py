"""Words and characters as tokens: how texts are split, vocabularies, and lines filled up with padding.

How a text becomes tokens is data (`core.types.Tokens`), and one function reads it (`split_text`): a data set's own lines, a
file for `jaxnets predict`, a prompt and texts from Python all go through it.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError, note
from jaxnets.core.types import Tokens
from jaxnets.data.text.textfile import read_lines as read_lines
from jaxnets.ops.tokens import END, PAD, SPECIAL, UNKNOWN

# A word with the hyphens and apostrophes inside it, or one sign of punctuation. Marks that combine with a letter belong to it.
_MARK = "\u0300-\u036f"
_WORD = re.compile(rf"[\w{_MARK}]+(?:['’-][\w{_MARK}]+)*|[^\w\s]")
# For texts whose words are not numbered yet.
WORDS = Tokens((), "words", split="words", case="lower", form="NFC")


def split_text(text: str, tokens: Tokens) -> list[str]:
    """The names of a text's tokens in their order, by the rules of `tokens`; empty for a text without any."""
    text = unicodedata.normalize("NFC", text) if tokens.form == "NFC" else text
    text = text.lower() if tokens.case == "lower" else text
    if tokens.split == "characters":
        return list(text.strip())
    return text.split() if tokens.split == "blanks" else _WORD.findall(text)


def split_words(text: str) -> list[str]:
    """The words and signs of a text, in lower case."""
    return split_text(text, WORDS)


def build_vocabulary(lines: Iterable[Sequence[str]], *, least: int = 1) -> tuple[str, ...]:
    """The special tokens, then those seen at least `least` times, the most frequent first (else by alphabet)."""
    counts = Counter(token for line in lines for token in line)
    kept = [token for token, count in counts.items() if count >= least and token not in SPECIAL]
    return (*SPECIAL, *sorted(kept, key=lambda token: (-counts[token], token)))


def encode_lines(lines: Sequence[Sequence[str]], names: Sequence[str], length: int, *, ends: bool) -> np.ndarray:
    """Numbers `[lines, length]`, uint16 or, where there are more names than that has numbers, uint32; filled up with 0, the
    end token after the last where `ends`. A line that does not fit is cut."""
    numbers = {name: number for number, name in enumerate(names)}
    ids = np.full((len(lines), length), PAD, narrowest(len(names)))
    for row, line in zip(ids, lines, strict=True):
        found = [numbers.get(token, UNKNOWN) for token in line] + [END] * ends
        row[: len(found)] = found[:length]
    return ids


def encode_texts(
    texts: Iterable[Any], tokens: Tokens, length: int | None = None, *, where: str = "text {}", first: int = 0
) -> np.ndarray:
    """New texts as the tokens that the same texts would have been in training.

    Args:
        texts: one string for each example.
        tokens: how they are split, and what the tokens' numbers are.
        length: tokens of a row in training; a shorter text is filled up with 0. A longer one is cut to it, which is noted,
            where the training data were (`tokens.longer`); else all rows are as long as the longest text.
        where: what a text is called in messages, by its number.
        first: the number of the first text in messages.

    Returns:
        `[N, S]` int32.

    Raises:
        DataError: no text at all, something that is no text, a text without tokens, or one with a character that the model
            does not know. (Unknown words have a token of their own; they are counted and noted.)
    """
    if isinstance(texts, str | bytes):
        raise DataError(
            f"texts are given as a list, one string for each example; got {type(texts).__name__}: put it in []"
        )
    lines = []
    for number, text in enumerate(texts, start=first):
        if not isinstance(text, str):
            raise DataError(
                f"{where.format(number)} is {str(text)[:60]!r} ({type(text).__name__}), and texts are strings; leave it "
                f"out, or give it as a string"
            )
        lines.append(split_text(text, tokens))
        if not lines[-1]:
            raise DataError(
                f"{where.format(number)}: the text is empty, and a source has at least one token; give some text"
            )
    if not lines:
        raise DataError("there are no texts; give at least one")
    _check_known(lines, tokens, where, first)
    longest = max(map(len, lines))
    if length is not None and tokens.longer == "cut" and longest > length:
        cut = sum(len(line) > length for line in lines)
        note(
            f"{cut:,} of {len(lines):,} texts have more than {length} {tokens.unit} and were cut after them, as in training"
        )
        longest = length
    return encode_lines(lines, tokens.names, max(longest, length or 1), ends=False).astype(np.int32)


def encode_text(text: str, tokens: Tokens, length: int | None = None) -> np.ndarray:
    """The numbers `[1, S]` int32 of one text that a person has typed; see `encode_texts`."""
    return encode_texts([text], tokens, length, where="the prompt")


def narrowest(size: int) -> Any:
    """The integer type that token ids of a vocabulary are kept in."""
    return np.uint16 if size <= 2**16 else np.uint32


def _check_known(lines: Sequence[Sequence[str]], tokens: Tokens, where: str, first: int) -> None:
    known = set(tokens.names)
    unknown = Counter(token for line in lines for token in line if token not in known)
    if not unknown:
        return
    if tokens.unit == "characters":
        number = next(number for number, line in enumerate(lines, start=first) if not known.issuperset(line))
        wrong = next(token for token in lines[number - first] if token not in known)
        raise DataError(
            f"{where.format(number)}: the model knows {len(tokens.names) - len(SPECIAL)} characters, and {wrong!r} is none of "
            f"them; leave it out"
        )
    total = sum(map(len, lines))
    shown = ", ".join(repr(token) for token, _ in unknown.most_common(5)) + (", ..." if len(unknown) > 5 else "")
    where_cut = "white space" if tokens.split == "blanks" else "words and punctuation"
    note(
        f"{unknown.total():,} of {total:,} words are unknown to the model and read as one unknown word: {shown} (texts are "
        f"split at {where_cut}, {'in lower case' if tokens.case == 'lower' else 'capitals as written'}, as in training)"
    )
