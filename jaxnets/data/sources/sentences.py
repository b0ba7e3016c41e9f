"""Sentences with one label each."""

import dataclasses
import gzip
import io
import zipfile
from typing import Literal

import numpy as np

from jaxnets.core.download import Remote, obtain_file
from jaxnets.core.errors import DataError
from jaxnets.core.types import Tokens
from jaxnets.data.dataset import Arrays, Dataset, Source, TokenIds
from jaxnets.data.text.vocabulary import build_vocabulary, encode_lines, read_lines, split_text

POLARITY = Remote(
    "https://raw.githubusercontent.com/nltk/nltk_data/5db857e6f7df11eabb5e5665836db9ec8df07e28/packages/corpora/"
    "sentence_polarity.zip",
    "6e1ed4405b65c7eabf1d199a7f7c437091ac21da0ea7467b410a74062574566b",
)


@dataclasses.dataclass(frozen=True)
class RottenTomatoes(Source):
    """10,662 sentences from film reviews, half of them positive (Pang and Lee 2005), as words.

    There is no official split. Here the first 80 % of each class are for training, and 10 % each for validation and test.
    """

    test: Literal["test", "val"] = "test"
    """Which part is the test split; with "val", the last tenth is not used."""
    length: int = 59
    """Most words of a sentence that are read; the longest sentence has 59."""
    least: int = 2
    """Fewest occurrences of a word in training; rarer words become one unknown token."""

    def open(self) -> Dataset:
        """Words `[length]`, padded with 0; label 1 is positive."""
        if self.length < 1 or self.least < 1:
            raise DataError(f"RottenTomatoes.length and least are at least 1, got {self.length} and {self.least}")
        path = obtain_file("text/rotten_tomatoes.tsv.gz", POLARITY, unpack_polarity)
        rows = [line.split("\t") for line in read_lines(path)[1:]]
        if any(len(row) != 3 or row[1] not in ("0", "1") for row in rows):
            raise DataError(f"{path} is not a table of split, label and text; delete it to download it again")
        rule = Tokens((), "words", split="blanks", case="kept", form="NFC", longer="cut")
        lines = [split_text(row[2], rule) for row in rows]
        chosen = (line for row, line in zip(rows, lines, strict=True) if row[0] == "train")
        tokens = dataclasses.replace(rule, names=build_vocabulary(chosen, least=self.least))
        cut = sum(len(line) > self.length for line in lines)
        train, test, held = (self._arrays(split, rows, lines, tokens.names) for split in ("train", self.test, "val"))
        return Dataset(
            name="Rotten Tomatoes",
            train=train,
            test=test,
            validation=held if self.test == "test" else None,
            class_names=("against", "in favour"),
            target_name="opinion",
            prepare=TokenIds(),
            source=f"{POLARITY.url}; {cut:,} of {len(rows):,} sentences cut after {self.length} words",
            tokens=tokens,
        )

    def _arrays(self, split: str, rows: list[list[str]], lines: list[list[str]], names: tuple[str, ...]) -> Arrays:
        chosen = [number for number, row in enumerate(rows) if row[0] == split]
        return {
            "inputs": encode_lines([lines[number] for number in chosen], names, self.length, ends=False),
            "targets": np.array([int(rows[number][1]) for number in chosen], np.int32),
        }


def unpack_polarity(content: bytes) -> bytes:
    """A gzipped table of split, label and text from nltk's archive."""
    table = ["split\tlabel\ttext"]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for label, name in ((1, "pos"), (0, "neg")):
            text = archive.read(f"sentence_polarity/rt-polarity.{name}").decode("utf-8")
            lines = [" ".join(line.split()) for line in text.strip().split("\n")]
            tenth = round(len(lines) / 10)
            cuts = {"train": lines[: -2 * tenth], "val": lines[-2 * tenth : -tenth], "test": lines[-tenth:]}
            table += [f"{split}\t{label}\t{line}" for split, part in cuts.items() for line in part]
    return gzip.compress(("\n".join(table) + "\n").encode(), mtime=0)
