"""Tokenizer folders as people have them; the libraries' own readers are the judge."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxnets.core.errors import DataError, DataWarning
from jaxnets.data import open_tokenizer

tokenizers = pytest.importorskip("tokenizers")
FILES = Path(os.environ.get("JAXNETS_DATA", "")) / "tokenizers"

PLAIN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
LETTERS = [chr(b) for b in PLAIN] + [chr(256 + i) for i in range(256 - len(PLAIN))]
TEXTS = (
    "the theory of <|user|> there",
    "<|user|><|pad|> the",
    "a <|user|>b",
    " naïve 日本 \n\n the",
    "e\u0301 non\u00a0breaking",
    "the<mid>then <mid> the",
)


def write(folder, name, data):
    (folder / name).write_text(data if isinstance(data, str) else json.dumps(data))


@pytest.fixture
def pair(tmp_path):
    """GPT-2's pair of files with 258 pieces and two merges."""
    write(tmp_path, "vocab.json", {piece: i for i, piece in enumerate([*LETTERS, "th", "the"])})
    write(tmp_path, "merges.txt", "#version: 0.2\nt h\nth e\n")
    return tmp_path


def theirs(folder):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def flags(**changes):
    return {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True, **changes}


CONFIGS = {
    "added_tokens_json": ({"added_tokens.json": {"<|user|>": 258, "<|pad|>": 259, "<mid>": 260}}, {}),
    "special_tokens_map": (
        {
            "added_tokens.json": {"<|user|>": 258, "<|pad|>": 259},
            "special_tokens_map.json": {"pad_token": "<|pad|>", "additional_special_tokens": ["<|user|>"]},
        },
        {"padding": 259},
    ),
    "decoder": (
        {
            "tokenizer_config.json": {
                "added_tokens_decoder": {
                    "258": {"content": "<|user|>", **flags(lstrip=True)},
                    "259": {"content": "<|pad|>", **flags()},
                    "260": {"content": "<mid>", **flags(rstrip=True, special=False)},
                },
                "pad_token": "<|pad|>",
            }
        },
        {"padding": 259},
    ),
    "single_word": (
        {
            "tokenizer_config.json": {
                "added_tokens_decoder": {"258": {"content": "there", **flags(single_word=True, special=False)}},
            }
        },
        {},
    ),
    "prefix_space": (
        {"tokenizer_config.json": {"add_prefix_space": True}, "added_tokens.json": {"<|user|>": 258}}, {}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_added_tokens_have_the_numbers_and_the_reading_that_transformers_gives_them(pair, kind):
    files, special = CONFIGS[kind]
    for name, data in files.items():
        write(pair, name, data)
    config = files.get("tokenizer_config.json", {})
    # Without this the library adds its own default marks after the vocabulary, before the file's.
    write(pair, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "unk_token": None, "bos_token": None,
                                          "eos_token": None, **config})  # fmt: skip
    ours, library = open_tokenizer(str(pair)), theirs(pair)
    for text in TEXTS:
        ids = library(text, add_special_tokens=False).input_ids
        assert ours.encode(text).tolist() == ids, text
        assert ours.decode(ids) == library.decode(ids, clean_up_tokenization_spaces=False)
    assert {role: ours.special[role] for role in special} == special
    assert len(ours.symbols) == max(library.get_vocab().values()) + 1


def test_numbers_with_gaps_are_kept(pair):
    write(pair, "added_tokens.json", {"<|user|>": 300, "<|pad|>": 270})
    ours = open_tokenizer(str(pair))
    assert ours.encode("the<|user|>the<|pad|>").tolist() == [257, 300, 257, 270]
    assert ours.decode([257, 300, 270]) == "the<|user|><|pad|>"
    assert len(ours.symbols) == 301
    # The same in a tokenizer.json, whose added tokens the library numbers in a row whatever the file says.
    pieces = {**{piece: i for i, piece in enumerate(LETTERS)}, "th": 258, "the": 259}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=pieces, merges=[("t", "h"), ("th", "e")]))
    made.pre_tokenizer, made.decoder = tokenizers.pre_tokenizers.ByteLevel(False), tokenizers.decoders.ByteLevel()
    data = json.loads(made.to_str())
    data["added_tokens"] = [{"id": 299, "content": "<|user|>", **flags()}]
    (pair / "other").mkdir()
    write(pair / "other", "tokenizer.json", data)
    assert open_tokenizer(str(pair / "other")).encode("the<|user|>").tolist() == [259, 299]


def test_a_tokenizer_json_is_read_with_the_tokens_that_the_files_beside_it_add(pair):
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=json.loads((pair / "vocab.json").read_text()), merges=[("t", "h"), ("th", "e")])
    )
    made.pre_tokenizer, made.decoder = tokenizers.pre_tokenizers.ByteLevel(False), tokenizers.decoders.ByteLevel()
    made.add_tokens(["<mid>"])
    made.save(str(pair / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {
            "258": {"content": "<mid>", **flags(normalized=True, special=False)},
            "259": {"content": "<|user|>", **flags()},
        },
        "bos_token": "<|user|>",
    }
    write(pair, "tokenizer_config.json", config)
    ours, library = open_tokenizer(str(pair)), theirs(pair)
    for text in TEXTS:
        assert ours.encode(text).tolist() == library(text, add_special_tokens=False).input_ids, text
    assert ours.special["begin"] == 259


@pytest.mark.parametrize("lower", [True, False])
def test_berts_vocabulary_is_read_as_transformers_does(tmp_path, lower):
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "un",
        "##aff",
        "##able",
        "Caf",
        "cafe",
        "##é",
        "!",
        "日",
        "##e",
    ]
    write(tmp_path, "vocab.txt", "\n".join(pieces) + "\n")
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": lower})
    ours, library = open_tokenizer(str(tmp_path)), theirs(tmp_path)
    for text in ("The unaffable!", "Café [MASK] 日the", "[SEP]the", "", "zebra\u00a0the"):
        ids = library(text, add_special_tokens=False).input_ids
        assert ours.encode(text).tolist() == ids, text
    assert ours.special == {"unknown": 1, "padding": 0}
    assert ours.symbols == tuple(pieces)


@pytest.mark.parametrize("name", ["mistral_v1", "t5_base"])
def test_a_folder_with_a_sentencepiece_model_and_its_small_files(tmp_path, name):
    if not (FILES / f"{name}.model").is_file():
        pytest.skip("JAXNETS_DATA is not set")
    pytest.importorskip("sentencepiece")
    place = "tokenizer.model" if name == "mistral_v1" else "spiece.model"
    shutil.copy(FILES / f"{name}.model", tmp_path / place)
    bare = open_tokenizer(str(tmp_path))
    write(
        tmp_path, "special_tokens_map.json", {"eos_token": "</s>", "unk_token": {"content": "<unk>", "lstrip": False}}
    )
    ours = open_tokenizer(str(tmp_path))
    assert ours.encode("The tale, 日本.").tolist() == bare.encode("The tale, 日本.").tolist()
    assert ours.special["end"] == bare.special["end"]
    with pytest.raises(
        DataError, match="'</s>', which is one token in the files beside .* but several in SentencePiece"
    ):
        ours.encode("one</s>two")
    write(tmp_path, "added_tokens.json", {"<pad>": 32000} if name == "mistral_v1" else {"<extra>": 32000})
    with pytest.raises(DataError, match="add '<(pad|extra)>', which SentencePiece cannot hold; save it as"):
        open_tokenizer(str(tmp_path))


def test_sentencepiece_with_byte_fallback_and_symbols_of_the_users_own(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "a.txt").write_text("the theory of the thing is there\nthen they that the other\n" * 30)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "a.txt"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=300, model_type="bpe",
        byte_fallback=True, user_defined_symbols=["<user>"], hard_vocab_limit=False, minloglevel=9,
    )  # fmt: skip
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    write(
        tmp_path,
        "tokenizer_config.json",
        {"tokenizer_class": "LlamaTokenizer", "additional_special_tokens": ["<user>"]},
    )
    ours = open_tokenizer(str(tmp_path))
    for text in ("the<user>then", "zebra 日 é", " two  spaces"):
        assert ours.encode(text).tolist() == library.encode(text), text
        assert ours.decode(library.encode(text)) == library.decode(library.encode(text))
    assert library.piece_to_id("<user>") in ours.encode("the<user>then")


REFUSED = [
    ({"added_tokens.json": {"<a>": 5}}, "'<a>' has id 5, but in vocab.json that is '&'"),
    ({"added_tokens.json": {"the": 300}}, "'the' has id 300, but in vocab.json it is 257"),
    ({"added_tokens.json": {"<a>": 300, "<b>": 300}}, "id 300, but in vocab.json that is '<a>'"),
    ({"special_tokens_map.json": {"pad_token": "<p>"}}, "'<p>' is named as a special token but has no id"),
    ({"added_tokens.json": {"<a>": 258}, "tokenizer_config.json": {"added_tokens_decoder": {"259": {"content": "<a>"}}}},
     "'<a>' is token 259 in tokenizer_config.json and 258 in added_tokens.json"),
    ({"added_tokens.json": "["}, "added_tokens.json cannot be read as JSON"),
    ({"added_tokens.json": {"<a>": "x"}}, "'<a>' has number 'x'"),
    ({"tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer"}}, "belongs to a Qwen2Tokenizer, which reads it differently"),
    ({"config.json": {"model_type": "qwen2"}}, "belongs to a qwen2, which reads it differently"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "message"), REFUSED)
def test_contradicting_tokenizer_files_are_refused_by_name(pair, files, message):
    for name, data in files.items():
        write(pair, name, data)
    with pytest.raises(DataError, match=message):
        open_tokenizer(str(pair))


def test_characters_that_a_tokenizer_leaves_out_are_counted_and_noted(tmp_path):
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.warns(DataWarning, match="no piece for 3 characters of the text, which are left out: '€', '日'"):
        assert open_tokenizer(str(tmp_path)).encode("a€b€日ab").tolist() == made.encode("a€b€日ab").ids
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(False)
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.warns(DataWarning, match="no piece for 1 characters of the text, which are left out: 'é'"):
        open_tokenizer(str(tmp_path)).encode("aéb ab")


def test_invalid_text_is_refused_by_every_tokenizer(pair):
    for name in ("bytes", str(pair)):
        with pytest.raises(DataError, match="surrogate|cannot be encoded"):
            open_tokenizer(name).encode("a\ud800")
        assert open_tokenizer(name).encode("").dtype == np.int32
