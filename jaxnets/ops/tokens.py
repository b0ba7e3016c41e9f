"""The tokens that every vocabulary of sequences begins with, and how tokens are written out."""

from collections.abc import Iterable, Sequence

PAD, BEGIN, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>")


def spell(ids: Iterable[int], names: Sequence[str], unit: str) -> str:
    """The text of tokens up to the end token: characters in a row, words with a blank between; padding is left out."""
    written = []
    for number in map(int, ids):
        if number == END:
            break
        if number not in (PAD, BEGIN):
            written.append(names[number])
    return ("" if unit == "characters" else " ").join(written)
