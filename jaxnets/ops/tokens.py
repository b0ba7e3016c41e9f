"""The tokens that every vocabulary of sequences begins with, and how tokens are written out."""

from collections.abc import Iterable, Sequence

PAD, BEGIN, END, UNKNOWN = range(4)
# A target that does not count, in losses and in metrics: torch's `ignore_index`.
IGNORED = -100
SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>")


def spell(ids: Iterable[int], names: Sequence[str], unit: str) -> str:
    """The text of tokens up to the end token: characters in a row, words with a blank between; what is padding or
    does not count is left out."""
    written = []
    for number in map(int, ids):
        if number == END:
            break
        if number not in (PAD, BEGIN, IGNORED):
            written.append(names[number])
    return ("" if unit == "characters" else " ").join(written)
