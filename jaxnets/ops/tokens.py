"""Special tokens at the start of every sequence vocabulary, and the conversion of tokens to text."""

from collections.abc import Iterable, Sequence

PAD, BEGIN, END, UNKNOWN = range(4)
# A target that losses and metrics ignore, like PyTorch's `ignore_index`.
IGNORED = -100
SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>")


def spell(ids: Iterable[int], names: Sequence[str], unit: str) -> str:
    """The text of tokens up to the end token: characters joined directly, words joined by blanks. Padding, begin and
    ignored tokens are left out."""
    written = []
    for number in map(int, ids):
        if number == END:
            break
        if number not in (PAD, BEGIN, IGNORED):
            written.append(names[number])
    return ("" if unit == "characters" else " ").join(written)
