"""Pairs of sequences: words and their reversals, sentences and their translations.

Inputs are the source tokens `[S]`; targets are the target tokens and the end token `[T]`. Both are padded with 0.
"""

import dataclasses
import gzip
import io
import zipfile
from typing import Literal

import numpy as np

from jaxnets.core.download import Remote, obtain_file
from jaxnets.core.errors import DataError
from jaxnets.core.files import user_path
from jaxnets.core.types import Tokens
from jaxnets.data.dataset import Arrays, Dataset, Source, TokenIds
from jaxnets.data.text.vocabulary import WORDS as WORD_RULE
from jaxnets.data.text.vocabulary import build_vocabulary, encode_lines, read_lines, split_text, split_words
from jaxnets.ops.tokens import SPECIAL

WORDS = Remote(
    "https://raw.githubusercontent.com/nltk/nltk_data/5db857e6f7df11eabb5e5665836db9ec8df07e28/packages/corpora/words.zip",
    "54ed02917d6771dcc3e8141218960d020947f7f2ccfd9ac9b320979349746015",
)
MULTI30K = (
    "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw/{}.gz"
)
_DIGESTS = {
    "train.de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.fr": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.fr": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    "test_2016_flickr.de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.fr": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
}


@dataclasses.dataclass(frozen=True)
class ReversedWords(Source):
    """English words as letters, and the same words reversed; no word is in both splits."""

    path: str = "words"
    """A text with one word per line, or "words" (235,886 words, nltk_data; found through JAXNETS_DATA, else downloaded)."""
    shortest: int = 3
    """Fewest letters of a word."""
    longest: int = 12
    """Most letters of a word."""
    train: int = 40_000
    """Words for training."""
    test: int = 2_000
    """Words for the test."""
    seed: int = 0
    """Seed of the choice of words and the split."""

    def open(self) -> Dataset:
        """Inputs `[longest]` and targets `[longest + 1]`, letters; words with other letters than a to z are left out."""
        for name, value in (("shortest", self.shortest), ("train", self.train), ("test", self.test)):
            if value < 1:
                raise DataError(f"ReversedWords.{name} is at least 1, got {value}")
        words, source = self._read()
        rule = Tokens((*SPECIAL, *"abcdefghijklmnopqrstuvwxyz"), "characters")
        letters = {w for w in ("".join(split_text(word, rule)) for word in words) if w.isascii() and w.isalpha()}
        fit = sorted(w for w in letters if self.shortest <= len(w) <= self.longest)
        if len(fit) < self.train + self.test:
            raise DataError(
                f"{source} has {len(fit)} different words of {self.shortest} to {self.longest} letters, and "
                f"{self.train} + {self.test} were requested; request fewer, or change shortest and longest"
            )
        order = np.random.default_rng(self.seed).permutation(len(fit))[: self.train + self.test]
        names = rule.names
        chosen = [fit[i] for i in order]
        arrays = {
            "inputs": encode_lines(chosen, names, self.longest, ends=False),
            "targets": encode_lines([w[::-1] for w in chosen], names, self.longest + 1, ends=True),
        }
        return Dataset(
            name="reversed words",
            train={key: array[: self.train] for key, array in arrays.items()},
            test={key: array[self.train :] for key, array in arrays.items()},
            class_names=names,
            target_kind="sequence",
            target_name="word reversed",
            prepare=TokenIds(),
            source=f"{source}; {len(letters) - len(fit):,} of {len(letters):,} words left out for their length",
            tokens=rule,
        )

    def _read(self) -> tuple[list[str], str]:
        if self.path != "words":
            return read_lines(user_path(self.path)), self.path
        return read_lines(obtain_file("text/words_en.txt.gz", WORDS, unpack_words)), WORDS.url


@dataclasses.dataclass(frozen=True)
class Multi30k(Source):
    """29,000 photo captions and their translations (Elliott et al. 2016), as lower-case words.

    Words and punctuation marks are tokens; those with fewer than `least` occurrences in training become one unknown token.
    """

    source: Literal["de", "en", "fr"] = "de"
    """The source language."""
    target: Literal["de", "en", "fr"] = "en"
    """The target language."""
    test: Literal["test_2016_flickr", "val"] = "test_2016_flickr"
    """The test split: the 1,000 pairs of the 2016 test set, or the 1,014 pairs of the validation set."""
    length: int = 24
    """Most words of a training sentence, in either language; longer pairs are dropped from training, never from the test."""
    least: int = 2
    """Fewest occurrences of a word in training."""

    def open(self) -> Dataset:
        """Source words `[S]` and target words `[T]`; each split is as long as its longest sentence."""
        if self.source == self.target:
            raise DataError(f"Multi30k.source and target are both {self.source!r}; choose two languages")
        if self.length < 1 or self.least < 1:
            raise DataError(f"Multi30k.length and least are at least 1, got {self.length} and {self.least}")
        train = self._pairs("train")
        kept = [pair for pair in train if max(map(len, pair)) <= self.length]
        if not kept:
            raise DataError(f"no training pair of Multi30k has at most {self.length} words; make length larger")
        names, written = (build_vocabulary((pair[side] for pair in kept), least=self.least) for side in (0, 1))
        left = len(train) - len(kept)
        return Dataset(
            name=f"Multi30k {self.source}-{self.target}",
            train=_arrays(kept, names, written),
            test=_arrays(self._pairs(self.test), names, written),
            validation=_arrays(self._pairs("val"), names, written) if self.test != "val" else None,
            class_names=written,
            target_kind="sequence",
            target_name=f"translation ({self.target})",
            prepare=TokenIds(),
            source=f"{MULTI30K.format('*')}; {left:,} of {len(train):,} training pairs left out for more than {self.length} "
            f"words, none of the test",
            tokens=dataclasses.replace(WORD_RULE, names=names),
        )

    def _pairs(self, split: str) -> list[tuple[list[str], list[str]]]:
        sides = []
        for language in (self.source, self.target):
            name = f"{split}.{language}"
            path = obtain_file(f"text/multi30k/{name}.gz", Remote(MULTI30K.format(name), _DIGESTS[name]))
            sides.append([split_words(line) for line in read_lines(path)])
        if len(sides[0]) != len(sides[1]):
            raise DataError(
                f"Multi30k {split}: {len(sides[0])} lines in {self.source!r}, {len(sides[1])} in {self.target!r}; one file is "
                f"damaged, delete both and fetch them again"
            )
        return list(zip(*sides, strict=True))


def unpack_words(content: bytes) -> bytes:
    """The word list from nltk's archive, gzipped."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return gzip.compress(archive.read("words/en"), mtime=0)


def _arrays(pairs: list[tuple[list[str], list[str]]], names: tuple[str, ...], written: tuple[str, ...]) -> Arrays:
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    return {
        "inputs": encode_lines(sources, names, max(map(len, sources)), ends=False),
        "targets": encode_lines(targets, written, max(map(len, targets)) + 1, ends=True),
    }
