"""Words and characters as tokens: splitting texts, vocabularies, padding.

The rules for splitting are data (`core.types.Tokens`), and only `split_text` applies them: to the lines of a data set, a file
for `jaxnets predict`, a prompt, and texts from Python.
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

# A word with its inner hyphens and apostrophes, or one punctuation mark. Combining marks belong to their letter.
_MARK = "\u0300-\u036f"
_WORD = re.compile(rf"[\w{_MARK}]+(?:['’-][\w{_MARK}]+)*|[^\w\s]")
# The rules for texts of words; the vocabulary is added later.
WORDS = Tokens((), "words", split="words", case="lower", form="NFC")


def split_text(text: str, tokens: Tokens) -> list[str]:
    """Split a text into token names by the rules of `tokens`; [] for an empty text."""
    text = unicodedata.normalize("NFC", text) if tokens.form == "NFC" else text
    text = text.lower() if tokens.case == "lower" else text
    if tokens.split == "characters":
        return list(text.strip())
    return text.split() if tokens.split == "blanks" else _WORD.findall(text)


def split_words(text: str) -> list[str]:
    """The words and punctuation marks of a text, in lower case."""
    return split_text(text, WORDS)


def build_vocabulary(lines: Iterable[Sequence[str]], *, least: int = 1) -> tuple[str, ...]:
    """The special tokens, then the tokens with at least `least` occurrences, by decreasing count, then alphabetically."""
    counts = Counter(token for line in lines for token in line)
    kept = [token for token, count in counts.items() if count >= least and token not in SPECIAL]
    return (*SPECIAL, *sorted(kept, key=lambda token: (-counts[token], token)))


def encode_lines(lines: Sequence[Sequence[str]], names: Sequence[str], length: int, *, ends: bool) -> np.ndarray:
    """Token ids `[lines, length]`, uint16 (uint32 for more than 65,536 names), padded with 0. `ends` adds the end token after
    the last. Longer lines are cut."""
    numbers = {name: number for number, name in enumerate(names)}
    ids = np.full((len(lines), length), PAD, narrowest(len(names)))
    for row, line in zip(ids, lines, strict=True):
        found = [numbers.get(token, UNKNOWN) for token in line] + [END] * ends
        row[: len(found)] = found[:length]
    return ids


def encode_texts(
    texts: Iterable[Any], tokens: Tokens, length: int | None = None, *, where: str = "text {}", first: int = 0
) -> np.ndarray:
    """Encode new texts exactly as in training.

    Args:
        texts: one string for each example.
        tokens: the rules for splitting, and the vocabulary.
        length: row length in training; shorter texts are padded with 0. Longer texts are cut to it, with a note, if the
            training texts were (`tokens.longer`); otherwise all rows are as long as the longest text.
        where: the name of a text in messages, formatted with its number.
        first: the number of the first text in messages.

    Returns:
        `[N, S]` int32.

    Raises:
        DataError: there are no texts, an item is not a string, or a text has no tokens or a character that the model does
            not know. (Unknown words become one unknown token; a note counts them.)
    """
    if isinstance(texts, str | bytes):
        raise DataError(f"give texts as a list, one string for each example; got {type(texts).__name__}: put it in []")
    lines = []
    for number, text in enumerate(texts, start=first):
        if not isinstance(text, str):
            raise DataError(
                f"{where.format(number)} is {str(text)[:60]!r} ({type(text).__name__}), not a string; leave it "
                f"out, or give it as a string"
            )
        lines.append(split_text(text, tokens))
        if not lines[-1]:
            raise DataError(
                f"{where.format(number)}: the text is empty, and the model needs at least one token; give some text"
            )
    if not lines:
        raise DataError("there are no texts; give at least one")
    _check_known(lines, tokens, where, first)
    longest = max(map(len, lines))
    if length is not None and tokens.longer == "cut" and longest > length:
        cut = sum(len(line) > length for line in lines)
        note(
            f"{cut:,} of {len(lines):,} texts have more than {length} {tokens.unit} and were cut to that, as in training"
        )
        longest = length
    return encode_lines(lines, tokens.names, max(longest, length or 1), ends=False).astype(np.int32)


def encode_text(text: str, tokens: Tokens, length: int | None = None) -> np.ndarray:
    """Token ids `[1, S]` int32 of one prompt; see `encode_texts`."""
    return encode_texts([text], tokens, length, where="the prompt")


def narrowest(size: int) -> Any:
    """The smallest dtype for the token ids of a vocabulary: uint16 or uint32."""
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
            f"{where.format(number)}: the model knows {len(tokens.names) - len(SPECIAL)} characters, and {wrong!r} is not one "
            f"of them; remove it"
        )
    total = sum(map(len, lines))
    shown = ", ".join(repr(token) for token, _ in unknown.most_common(5)) + (", ..." if len(unknown) > 5 else "")
    where_cut = "white space" if tokens.split == "blanks" else "words and punctuation"
    note(
        f"{unknown.total():,} of {total:,} words are unknown to the model and become the unknown token: {shown} (texts are "
        f"split at {where_cut}, {'in lower case' if tokens.case == 'lower' else 'capitals as written'}, as in training)"
    )
