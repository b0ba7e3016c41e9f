"""Texts as people have them: encodings, line ends, unknown words; one reading for training and for everything after."""

import dataclasses
import json

import numpy as np
import pytest

from jaxnets.core.errors import DataError, DataWarning
from jaxnets.core.types import Tokens
from jaxnets.data import ReversedWords, RottenTomatoes, Text, TokenFile
from jaxnets.data.given import read_given
from jaxnets.data.text.textfile import read_lines, read_text
from jaxnets.data.text.vocabulary import build_vocabulary, encode_lines, encode_text, encode_texts, split_text
from jaxnets.ops.tokens import SPECIAL

# --- one reading


REVIEWS = "split\tlabel\ttext\n" + "".join(
    f"{split}\t{label}\t{text}\n"
    for split in ("train", "val", "test")
    for label, text in (
        (1, "a café isn't bad , Really !"),
        (0, "bad bad film -- isn't good"),
        (1, "good film"),
        (0, "a bad café"),
    )
)


@pytest.fixture
def reviews(tmp_path, monkeypatch):
    import gzip

    monkeypatch.setenv("JAXNETS_DATA", str(tmp_path))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "rotten_tomatoes.tsv.gz").write_bytes(gzip.compress(REVIEWS.encode()))
    return RottenTomatoes(length=5, least=1).open()


def test_a_file_and_texts_from_python_are_read_as_the_data_set_was(reviews, tmp_path):
    texts = [line.split("\t")[2] for line in REVIEWS.splitlines() if line.startswith("test")]
    (tmp_path / "new.txt").write_text("\n".join(texts))
    with pytest.warns(DataWarning, match="2 of 4 texts have more than 5 words and were cut to that, as in training"):
        given = read_given(tmp_path / "new.txt", reviews.preparation)["inputs"]
    np.testing.assert_array_equal(given, reviews.test["inputs"])
    with pytest.warns(DataWarning, match="were cut"):
        np.testing.assert_array_equal(encode_texts(texts, reviews.tokens, 5), reviews.test["inputs"])
    again = Tokens(**{k: tuple(v) if isinstance(v, list) else v
                      for k, v in json.loads(json.dumps(dataclasses.asdict(reviews.tokens))).items()})  # fmt: skip
    assert again == reviews.tokens


def test_unknown_words_are_counted_and_noted(reviews):
    with pytest.warns(
        DataWarning, match=r"3 of 5 words are unknown to the model .*: 'ugly', 'film!' \(texts are split at white"
    ):
        ids = encode_texts(["ugly film!", "ugly bad film"], reviews.tokens)
    assert (ids == 3).sum() == 3


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a text", r"give texts as a list, .*got str: put it in \[\]"),
        ([], "there are no texts"),
        (["good", float("nan")], r"text 1 is 'nan' \(float\), not a string"),
        ([b"good"], r"text 0 is .* \(bytes\)"),
        (["good", " \t"], "text 1: the text is empty"),
    ],
)
def test_files_that_are_not_text_are_refused(reviews, texts, message):
    with pytest.raises(DataError, match=message):
        encode_texts(texts, reviews.tokens)


def test_the_rule_of_splitting_follows_from_the_token_names_by_default():
    assert split_text("Good, Bad", Tokens((*SPECIAL, "good"), "words")) == ["good", ",", "bad"]
    assert split_text("Good, Bad", Tokens((*SPECIAL, "Good"), "words")) == ["Good", ",", "Bad"]
    assert split_text("Good, Bad", Tokens((), "words", split="blanks")) == ["good,", "bad"]
    composed, apart = "caf\u00e9", "cafe\u0301"
    for name in (composed, apart):
        tokens = Tokens((*SPECIAL, name), "words")
        assert split_text(name, tokens) == [name]
    np.testing.assert_array_equal(encode_text(apart, Tokens((*SPECIAL, composed), "words")), [[4]])
    # A word with its accent apart stays one word.
    assert split_text(f"{apart} x", Tokens((*SPECIAL, apart), "words")) == [apart, "x"]


def test_more_words_than_uint16_holds_do_not_wrap():
    names = build_vocabulary([[f"w{i:06}" for i in range(70_000)]])
    ids = encode_lines([["w069999", "w000001"]], names, 3, ends=True)
    assert ids[0].tolist() == [names.index("w069999"), names.index("w000001"), 2]
    assert ids.max() > 2**16


# --- files of text


LINES = ["first\x0bline", "second\u2028line", "third\x85line", "", "fifth\x0c line", "last\u00a0one"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("final", [True, False])
def test_lines_end_only_at_line_ends_of_the_file(tmp_path, encoding, end, final):
    (tmp_path / "x.txt").write_bytes((end.join(LINES) + end * final).encode(encoding))
    assert read_lines(tmp_path / "x.txt") == LINES
    assert read_text(tmp_path / "x.txt") == "\n".join(LINES) + "\n" * final


def test_leading_blank_lines_count_and_a_lone_cr_does_not_end_a_line(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\n\ngood\rbad\r\nfilm\n\n \n")
    assert read_lines(tmp_path / "x.txt") == ["", "", "good\rbad", "film"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "caf\u00e9\n".encode("latin-1"),
            r"cannot be read as UTF-8 text: byte 0xe9 at 3 \(line 1\) is invalid; .*iconv",
        ),
        (b"a\n\xed\xa0\x80", r"a lone surrogate, byte 0xed at 2 \(line 2\)"),
        ("text".encode("utf-16-le"), "holds 4 NUL characters, the first at 1; .*UTF-16 without a byte order mark"),
        (b"a\0b", "holds 1 NUL characters"),
    ],
)
def test_invalid_bytes_in_a_text_are_refused_with_their_place(tmp_path, content, message):
    (tmp_path / "x.txt").write_bytes(content)
    for read in (read_text, read_lines, lambda path: Text(str(path), length=1).open()):
        with pytest.raises(DataError, match=message):
            read(tmp_path / "x.txt")


def test_a_text_is_the_same_with_any_mark_and_line_ends_and_from_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "to be or not to be\n" * 20
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    (tmp_path / "y.txt").write_text(text)
    marked, plain = Text("~/x.txt", length=4).open(), Text(str(tmp_path / "y.txt"), length=4).open()
    assert marked.class_names == plain.class_names
    np.testing.assert_array_equal(marked.train["inputs"], plain.train["inputs"])


def test_characters_of_the_test_part_alone_are_noted(tmp_path):
    (tmp_path / "x.txt").write_text("abc" * 30 + "zzza" + "b" * 6)
    with pytest.warns(
        DataWarning, match=r"1 characters of the test part \('z'; 3 places\) do not occur in the training"
    ):
        Text(str(tmp_path / "x.txt"), length=2).open()


def test_a_prompt_with_decomposed_accents_names_the_remedy(tmp_path):
    (tmp_path / "x.txt").write_text("caf\u00e9 " * 30)
    tokenizer = Text(str(tmp_path / "x.txt"), length=2).open().tokenizer
    with pytest.raises(DataError, match="normalise the text to NFC first"):
        tokenizer.encode("cafe\u0301")


def test_words_of_a_file_with_windows_ends_are_read(tmp_path):
    words = [a + b + c for a in "abcdefg" for b in "aeiou" for c in "abcdefg"]
    (tmp_path / "w.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(words).encode())
    data = ReversedWords(str(tmp_path / "w.txt"), longest=3, train=200, test=20).open()
    assert data.source.endswith("0 of 245 words left out for their length")


# --- tokens made before


IDS = np.random.default_rng(0).integers(0, 256, 600).astype(np.uint16)


def opened(path, **changes):
    return TokenFile(path=str(path), tokens="bytes", length=8, stride=8, **changes).open()


def check_ids(data):
    np.testing.assert_array_equal(data.train["inputs"].reshape(-1), IDS[:592])
    np.testing.assert_array_equal(data.test["inputs"].reshape(-1), IDS[100:196])


def llm_c(ids, magic=20240520, version=1, count=None):
    return (
        np.array([magic, version, len(ids) if count is None else count, *[0] * 253], np.int32).tobytes() + ids.tobytes()
    )


@pytest.mark.parametrize("kind", ["bin", "uint32", "npy", "npz", "llm.c", "llm.c llama"])
def test_tokens_of_other_programs_are_read(tmp_path, kind):
    parts, changes, suffix = {"train": IDS, "val": IDS[100:200]}, {}, "npy" if kind == "npy" else "bin"
    for name, ids in parts.items():
        path = tmp_path / f"tiny_{name}.{suffix}"
        if kind == "npy":
            np.save(path, ids.astype(np.int64))
        elif kind.startswith("llm.c"):
            wide = kind.endswith("llama")
            path.write_bytes(llm_c(ids.astype(np.uint32), 20240801, 7) if wide else llm_c(ids))
        else:
            ids.astype(np.uint32 if kind == "uint32" else np.uint16).tofile(path)
    if kind == "uint32":
        with pytest.raises(DataError, match="every second token is 0, so it seems to hold uint32; set data.dtype"):
            opened(tmp_path / "tiny_train.bin")
        changes = {"dtype": "uint32"}
    if kind == "npz":
        np.savez(tmp_path / "a.npz", train=IDS, val=IDS[100:200])
        check_ids(opened(tmp_path / "a.npz", test="val"))
        return
    check_ids(opened(tmp_path / f"tiny_train.{suffix}", **changes))
    check_ids(opened(tmp_path / f"tiny_train.{suffix}", test=f"tiny_val.{suffix}", **changes))


def test_a_folder_of_tokens_is_read(tmp_path):
    IDS.tofile(tmp_path / "train.bin")
    IDS[100:200].tofile(tmp_path / "val.bin")
    check_ids(opened(tmp_path))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (IDS.tobytes() + b"x", "1,201 bytes, which is not a multiple of the 2 bytes of a uint16 id"),
        (b"", "0 bytes, which is not a multiple"),
        (np.append(IDS, 300).astype(np.uint16).tobytes(), "token 300 at 600, outside of a vocabulary of 256"),
        (llm_c(IDS, version=5), "an llm.c file of version 5"),
        (llm_c(IDS, count=700), "its header declares 700 tokens, and 600 follow"),
    ],
)
def test_invalid_token_files_are_refused(tmp_path, train, message):
    (tmp_path / "train.bin").write_bytes(train)
    IDS.tofile(tmp_path / "val.bin")
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "train.bin")


def test_a_missing_part_is_named(tmp_path):
    IDS.tofile(tmp_path / "train.bin")
    with pytest.raises(
        DataError, match=r"there is no test file beside it \(test.bin, val.bin, validation.bin, valid.bin\)"
    ):
        opened(tmp_path / "train.bin")
    IDS.tofile(tmp_path / "all.bin")
    with pytest.raises(DataError, match="is the training file, and there is no test file"):
        opened(tmp_path / "all.bin")
