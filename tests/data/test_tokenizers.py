"""Text to tokens and back: other libraries' ids, files that come and go, and runs that are trained on them."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import run_cli, run_here
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets.core.errors import DataError
from jaxnets.data import GPT2Tokens, Text, TokenFile, open_tokenizer
from jaxnets.data.text.tokenizers import Bytes, Characters

DATA = Path(os.environ.get("JAXNETS_DATA", ""))
FILES = DATA / "tokenizers"
needs_files = pytest.mark.skipif(not (FILES / "gpt2_encoder.json").is_file(), reason="JAXNETS_DATA is not set")


def reference(name):
    return json.loads((FILES / f"{name}_reference.json").read_text())


@pytest.fixture(scope="module")
def saved_by_the_library(tmp_path_factory):
    """A small byte-level tokenizer.json, trained and written by the library itself, and the library's own object."""
    tokenizers = pytest.importorskip("tokenizers")
    tok = tokenizers.Tokenizer(tokenizers.models.BPE())
    tok.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tok.train_from_iterator(["the quick brown fox jumps over the lazy dog. "] * 9, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tok.save(str(path))
    return path, tok


# --- the ids of others


@needs_files
@pytest.mark.parametrize("where", ["gpt2", "pair", "merges", "folder"])
def test_gpt2_has_the_ids_of_tiktoken(where, tmp_path):
    pytest.importorskip("tokenizers")
    shutil.copy(FILES / "gpt2_encoder.json", tmp_path / "vocab.json")
    shutil.copy(FILES / "gpt2_vocab.bpe", tmp_path / "merges.txt")
    names = {"gpt2": "gpt2", "pair": str(FILES / "gpt2_encoder.json"), "merges": str(tmp_path / "merges.txt")}
    tokenizer = open_tokenizer(names.get(where, str(tmp_path)))
    assert len(tokenizer.symbols) == 50257
    assert tokenizer.special == {"end": 50256}
    for entry in reference("gpt2"):
        assert tokenizer.encode(entry["text"]).tolist() == entry["ids"], entry["text"]
        assert tokenizer.decode(entry["ids"]) == entry["text"]
        shown = "".join(tokenizer.symbols[i] for i in entry["ids"])
        if entry["text"].isascii():
            assert shown == entry["text"]
    assert tokenizer.encode("a<|endoftext|>b").tolist() == [64, 50256, 65]


@needs_files
@pytest.mark.parametrize("name", ["mistral_v1", "t5_base"])
def test_sentencepiece_has_its_ids(name):
    sentencepiece = pytest.importorskip("sentencepiece")
    path = FILES / f"{name}.model"
    tokenizer, library = open_tokenizer(str(path)), sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert len(tokenizer.symbols) == 32000
    wanted = {"mistral_v1": {"begin": 1, "end": 2, "unknown": 0}, "t5_base": {"end": 1, "unknown": 2, "padding": 0}}
    assert tokenizer.special == wanted[name]
    for entry in reference("sentencepiece")[name]:
        assert tokenizer.encode(entry["text"]).tolist() == entry["ids"], entry["text"]
        # The unigram model normalises white space away; what it gives back is the library's answer.
        text = entry["text"] if name == "mistral_v1" else library.decode(entry["ids"])
        assert tokenizer.decode(entry["ids"]) == text


def test_a_file_of_the_library_has_the_librarys_ids(saved_by_the_library):
    path, library = saved_by_the_library
    tokenizer = open_tokenizer(str(path))
    for text in ("the lazy fox", " Ünïcode 🙂\n", "dog.<|endoftext|>the"):
        ids = library.encode(text).ids
        assert tokenizer.encode(text).tolist() == ids
        assert tokenizer.decode(ids) == text
    assert len(tokenizer.symbols) == library.get_vocab_size()
    assert tokenizer.special == {"end": 0}


def test_truncation_and_padding_settings_of_a_tokenizer_file_are_not_used(saved_by_the_library, tmp_path):
    path, library = saved_by_the_library
    data = json.loads(path.read_text())
    data["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {"strategy": {"Fixed": 200}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                       "pad_type_id": 0, "pad_token": "<|endoftext|>"}  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    text = "the lazy dog " * 9
    assert open_tokenizer(str(tmp_path / "tokenizer.json")).encode(text).tolist() == library.encode(text).ids


@needs_files
def test_prepared_tokens_are_those_of_the_text():
    pytest.importorskip("tokenizers")
    ours = Text(tokens="gpt2", length=1024).open()
    prepared = GPT2Tokens("shakespeare").open()
    for split in ("train", "test"):
        for name in ("inputs", "targets"):
            np.testing.assert_array_equal(getattr(ours, split)[name], getattr(prepared, split)[name])
    assert ours.train["inputs"].dtype == np.uint16
    text = (DATA / "text" / "tinyshakespeare.txt").read_text()
    cut = int(len(text) * 0.9)
    counts = [len(ours.tokenizer.encode(part)) for part in (text[:cut], text[cut:])]
    assert counts == [301_966, 36_059]  # nanoGPT's published ones
    assert prepared.card.class_names == ours.card.class_names
    assert (
        prepared.fingerprint
        != TokenFile(str(DATA / "text" / "gpt2_tokens.npz"), "c4_train", "c4_val").open().fingerprint
    )


@needs_files
@pytest.mark.parametrize(("text", "documents"), [("shakespeare", "joined"), ("books", "packed"), ("c4", "packed")])
def test_the_outline_has_the_shapes_of_the_data(text, documents):
    source = GPT2Tokens(text, length=300, documents=documents)
    outline, data = source.outline(), source.open()
    for split in ("train", "test"):
        for name, array in getattr(data, split).items():
            assert (getattr(outline, split)[name].shape, getattr(outline, split)[name].dtype) == (
                array.shape,
                array.dtype,
            )
    assert len(outline.card.class_names) == len(data.card.class_names)
    assert outline.card.examples == data.card.examples
    assert outline.card.separator == data.card.separator == (None if documents == "joined" else 50256)


# --- bytes and characters


@settings(max_examples=50, deadline=None)
@given(text=st.text(min_size=1, max_size=60))
def test_bytes_and_characters_give_the_text_back(text):
    written = text.encode("utf-8", errors="ignore").decode()
    assert Bytes().decode(Bytes().encode(written)) == written
    assert Bytes().encode(written).tolist() == list(written.encode())
    if written:
        own = Characters.of(written)
        assert own.decode(own.encode(written)) == written
        assert [own.symbols[i] for i in own.encode(written)] == list(written)


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=40))
def test_any_bytes_decode(content):
    assert Bytes().decode(list(content)) == content.decode("utf-8", errors="replace")


def test_characters_that_are_not_in_the_vocabulary_are_named():
    with pytest.raises(DataError, match=r"knows 2 characters, and '€' \(at 1\) is not one of them.*data.tokens=bytes"):
        Characters.of("ab").encode("a€")
    with pytest.raises(DataError, match="token 256 is outside the vocabulary of 256"):
        Bytes().decode([65, 256])
    with pytest.raises(DataError, match="token -1 is outside the vocabulary of 2"):
        Characters.of("ab").decode([-1])


# --- files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.json", None, "there is no tokenizer file"),
        ("words.txt", b"a b", "is not a tokenizer file by its name"),
        ("vocab.json", b"{}", "needs .*merges.txt, which does not exist"),
        ("tokenizer.json", b"{", "is not a vocabulary"),
        ("tokenizer.json", b"[]", "is not a vocabulary"),
        ("tokenizer.json", b"[" * 100_000, "is not a vocabulary"),
        ("tokenizer.json", b'{"model": {"vocab": {}}}', "is not a vocabulary"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 99999999999}}}', "is not a vocabulary"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": "0"}}}', "is not a vocabulary"),
        ("spiece.model", b"\x00\x01garbage", "is not a SentencePiece model"),
    ],
)
def test_invalid_files_are_named(tmp_path, name, content, message):
    if name.endswith(".model"):
        pytest.importorskip("sentencepiece")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_tokenizer(str(tmp_path / name))


def test_a_vocabulary_without_a_model_is_refused_when_it_is_used(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    with pytest.raises(DataError, match="cannot be read by the tokenizers library"):
        open_tokenizer(str(tmp_path / "tokenizer.json")).encode("a")


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path, saved_by_the_library):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(DataError, match=r"needs the package tokenizers.*pip install jaxnets\[text\]"):
        open_tokenizer(str(saved_by_the_library[0])).encode("a")
    (tmp_path / "a.model").write_bytes(b"x")
    with pytest.raises(DataError, match=r"needs the package sentencepiece.*pip install jaxnets\[text\]"):
        open_tokenizer(str(tmp_path / "a.model"))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([1, 2, 300, 3]), "token 300 at 2, outside of a vocabulary of 256"),
        (np.array([1, -2, 3]), "token -2 at 1"),
        (np.zeros((3, 3), np.int32), r"int32\[3, 3\]; token ids are a one-dimensional array of integers"),
        (np.zeros(9), "float64"),
    ],
)
def test_invalid_files_of_prepared_tokens_are_named(tmp_path, ids, message):
    np.savez(tmp_path / "t.npz", train=ids, test=np.arange(9))
    with pytest.raises(DataError, match=message):
        TokenFile(str(tmp_path / "t.npz"), tokens="bytes", length=2).open()
    with pytest.raises(DataError, match="tokens=characters needs the text"):
        TokenFile(str(tmp_path / "t.npz"), tokens="characters", length=2).open()


def test_large_vocabularies_take_more_bits(tmp_path):
    pieces = {f"t{i}": i for i in range(70_000)}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": pieces}}))
    np.savez(tmp_path / "t.npz", train=np.arange(69_900, 70_000), test=np.arange(9))
    tokens = str(tmp_path / "tokenizer.json")
    data = TokenFile(str(tmp_path / "t.npz"), tokens=tokens, length=4).open()
    assert data.train["inputs"].dtype == np.uint32
    assert data.train["targets"].max() == 69_999


# --- a run


@pytest.mark.slow
def test_a_run_with_a_tokenizer_file_writes_text_and_notices_when_the_file_changes(tmp_path, saved_by_the_library):
    shutil.copy(saved_by_the_library[0], tmp_path / "own.json")
    (tmp_path / "rhyme.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    (tmp_path / "rhyme.py").write_text(
        "from jaxnets.config import Experiment\nfrom jaxnets.data import Text\nfrom jaxnets.models import LanguageModel\n"
        "from jaxnets.tasks import NextToken\n"
        "def config():\n    model = LanguageModel(layers=1, heads=2, width=32, length=64)\n"
        "    return Experiment(task=NextToken(model=model), data=Text('rhyme.txt', length=8, tokens='own.json'), steps=120,\n"
        "                      batch_size=16)\n"
    )
    done = run_cli("train", "rhyme.py", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = run_cli("generate", "run", "--prompt", "the quick", "--tokens", 6, "--temperature", 0, cwd=tmp_path)
    assert told.stdout == "the quick brown fox jumps over the lazy\n", told.stderr
    assert run_here("generate", "run", "--tokens", 3, cwd=tmp_path).stdout.startswith("<|endoftext|>")
    data = json.loads((tmp_path / "own.json").read_text())
    data["model"]["merges"][-2:] = reversed(data["model"]["merges"][-2:])
    (tmp_path / "own.json").write_text(json.dumps(data))
    changed = run_here("generate", "run", "--prompt", "the", cwd=tmp_path)
    assert changed.returncode == 1
    assert "trained with another tokenizer than the one now in own.json" in changed.stderr
    (tmp_path / "own.json").unlink()
    gone = run_here("generate", "run", "--prompt", "the", cwd=tmp_path)
    assert gone.returncode == 1
    assert "there is no tokenizer file 'own.json'" in gone.stderr
    assert "Traceback" not in gone.stderr + changed.stderr
