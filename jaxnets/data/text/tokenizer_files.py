"""Tokenizers from files, read with the libraries `tokenizers` and `sentencepiece`. They come with the extra `text`
(`pip install jaxnets[text]`) and are imported on first use.
"""

import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError, first_line, note
from jaxnets.data.text.added_tokens import Beside, all_added, read_beside, read_object, with_added
from jaxnets.data.text.token_names import Numbered, byte_letter, digest_of, in_order, show_bytes, show_spaces

# Name endings of a pair of files: the one with the pieces -> the one with the merges.
PAIRS = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
KINDS = (
    "characters, bytes, gpt2, or the path of a tokenizer.json, of a vocab.json beside its merges.txt (an encoder.json "
    "beside its vocab.bpe), of a vocab.txt (BERT), of a SentencePiece .model, or of a folder that holds one of them"
)
# Names of end tokens, for files that do not declare one.
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<|im_end|>")
# Tokenizer classes that read their files as GPT-2, BERT or SentencePiece do; other classes read the same files differently.
_BYTE_LEVEL = ("GPT2", "Roberta", "Bart", "CodeGen", "Longformer", "LED", "Blenderbot")
_WORD_PIECE = ("Bert", "DistilBert", "MobileBert", "Electra", "MPNet")
# `model_type` in `config.json` of models that do not read their pair of files as GPT-2 does; used if there is no
# tokenizer_config.json.
_OTHER_MODELS = ("qwen", "clip", "openai-gpt", "ctrl", "xlm", "fsmt", "flaubert", "biogpt", "blenderbot-small")
_SENTENCE_PIECE = ("Llama", "CodeLlama", "Gemma", "T5", "Albert", "BigBird", "Reformer")
_BERT_MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# The usual file names; the small files beside it are read only for these.
_OWN = ("tokenizer.json", "vocab.json", "encoder.json", "vocab.txt", "tokenizer.model", "spiece.model")
_SAVE = "save it as a tokenizer.json: `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"


class LibraryFile(Numbered):
    """A tokenizer of the `tokenizers` library: a `tokenizer.json`, GPT-2's pair of pieces and merges, or BERT's `vocab.txt`.

    If it has its usual name, the small files beside it are read too (`data.text.added_tokens`).
    """

    def __init__(self, path: Path, merges: Path | None = None) -> None:
        self._path, self._merges = path, merges
        names = ("vocab.json", "merges.txt") if merges else (path.name if path.suffix == ".txt" else "tokenizer.json",)
        own = dict(zip(names, [path, merges] if merges else [path], strict=True))
        self._content = {file: _read(file) for file in own.values()}
        self._beside = read_beside(path.parent) if path.name in _OWN else Beside()
        self.files = {**own, **self._beside.files}
        self.digest = digest_of([*self._content.values(), *map(_read, self._beside.files.values())])
        try:
            self._data: Any = self._parsed()
            pieces = self._data if merges or path.suffix == ".txt" else self._pieces(self._data)
            bytewise = bool(merges) or (path.suffix == ".json" and "ByteLevel" in json.dumps(self._data.get("decoder")))
            self._added = all_added(path, pieces, self._beside)
            pieces = {**pieces, **{token.content: token.number for token in self._added}}
            self.symbols = in_order(path, pieces, show=show_bytes if bytewise else show_spaces, kinds=KINDS)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{path} is not a vocabulary ({type(error).__name__}: {first_line(error)}); data.tokens is {KINDS}"
            ) from error
        end = next((name for name in ENDS if name in pieces), None)
        named = {role: pieces[content] for role, content in self._beside.special.items()}
        if path.suffix == ".txt":
            named = {"unknown": pieces["[UNK]"], "padding": pieces["[PAD]"], **named}
        self.special = named if "end" in named or end is None else {"end": pieces[end], **named}

    def _parsed(self) -> Any:
        """The parsed JSON of the first file; for a `vocab.txt`, its lines and their numbers."""
        if self._path.suffix != ".txt":
            _check_class(self._path, self._beside, _BYTE_LEVEL if self._merges else None)
            return json.loads(self._content[self._path])
        _check_class(self._path, self._beside, _WORD_PIECE)
        lines = self._content[self._path].decode("utf-8").removesuffix("\n").split("\n")
        pieces = {line.removesuffix("\r"): number for number, line in enumerate(lines)}
        missing = [mark for mark in ("[UNK]", "[PAD]") if mark not in pieces]
        if missing or len(pieces) != len(lines):
            what = f"it lacks {missing[0]}" if missing else "it has a piece twice"
            raise DataError(f"{self._path} is not a BERT vocabulary: {what}; data.tokens is {KINDS}")
        return pieces

    @staticmethod
    def _pieces(data: Any) -> dict[str, int]:
        """All pieces of a `tokenizer.json` with their ids; the ids of a unigram model are list positions."""
        vocabulary = data["model"]["vocab"]
        if isinstance(vocabulary, list):
            vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
        return {**vocabulary, **{entry["content"]: entry["id"] for entry in data.get("added_tokens") or []}}

    @functools.cached_property
    def _library(self) -> Any:
        try:
            import tokenizers
        except ImportError:
            raise _missing("tokenizers", self._path) from None
        try:
            data, added = self._data, self._added
            if self._merges is not None:
                data = json.loads(self._pair(tokenizers).to_str())
            elif self._path.suffix == ".txt":
                data = json.loads(self._word_piece(tokenizers).to_str())
            data = with_added(data, added) if added or data.get("added_tokens") else data
            if data["model"].get("dropout"):
                note(
                    f"{self._path} drops merges at random (dropout); texts are encoded without dropout, always the same way"
                )
                data = {**data, "model": {**data["model"], "dropout": None}}
            made = tokenizers.Tokenizer.from_str(json.dumps(data))
        except DataError:
            raise
        except (
            BaseException
        ) as error:  # the library raises bare Exception, and a Rust panic does not derive from Exception
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            raise DataError(
                f"{' and '.join(map(str, self.files.values()))} cannot be read by the tokenizers library ("
                f"{first_line(error)}); use files that it wrote, or GPT-2's"
            ) from error
        # Many files have truncation and padding settings for sentences; they would cut a text after e.g. 512 tokens.
        made.no_truncation()
        made.no_padding()
        for entry in data.get("added_tokens") or []:
            if made.token_to_id(entry["content"]) != entry["id"]:
                raise DataError(
                    f"{self._path}: the added token {entry['content']!r} has id {entry['id']}, but the tokenizers library "
                    f"gives it {made.token_to_id(entry['content'])}, consecutive after the vocabulary; write that id in the "
                    f"file"
                )
        return made

    def _pair(self, tokenizers: Any) -> Any:
        """Build GPT-2's tokenizer from its pieces and merges."""
        assert self._merges is not None
        if any(piece.endswith("</w>") for piece in self._data):
            raise DataError(f"{self._path} marks the ends of words (</w>), which GPT-2's files do not; {_SAVE}")
        lines = self._content[self._merges].decode("utf-8").split("\n")
        lines = [line.removesuffix("\r") for line in lines]
        merges: Any = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
        made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=self._data, merges=merges))
        space = bool(self._beside.config.get("add_prefix_space", False))
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=space)
        made.decoder = tokenizers.decoders.ByteLevel()
        made.add_special_tokens([name for name in ENDS if name in self._data])
        return made

    def _word_piece(self, tokenizers: Any) -> Any:
        """Build BERT's tokenizer from its vocabulary."""
        config = self._beside.config
        made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab=self._data, unk_token="[UNK]"))
        made.normalizer = tokenizers.normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=config.get("tokenize_chinese_chars", True),
            strip_accents=config.get("strip_accents"), lowercase=config.get("do_lower_case", True),
        )  # fmt: skip
        made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        made.decoder = tokenizers.decoders.WordPiece(prefix="##")
        made.add_special_tokens([mark for mark in _BERT_MARKS if mark in self._data])
        return made

    def encode(self, text: str) -> np.ndarray:
        """Encode with the library, without the special tokens that some files add around a text.

        If there is no unknown token, the library drops characters without a piece; a note counts them.
        """
        try:
            found = self._library.encode(text, add_special_tokens=False)
        except TypeError as error:  # a lone surrogate
            raise DataError(f"the text cannot be encoded ({first_line(error)}): {text[:40]!r}; is it UTF-8?") from error
        missing = self._without_piece(frozenset(text))
        if missing:
            lost = Counter(character for character in text if character in missing)
            shown = ", ".join(repr(character) for character, _ in lost.most_common(5))
            note(f"{self._path} has no piece for {lost.total():,} characters of the text, which are left out: {shown}")
        return np.array(found.ids, np.int32)

    def _without_piece(self, characters: frozenset[str]) -> frozenset[str]:
        """The characters that the library drops: merges start from single characters (or bytes), and these have no
        piece."""
        model, first = self._model["model"], self._model.get("pre_tokenizer")
        gives = (
            model.get("unk_token") is not None or model.get("byte_fallback") or model.get("continuing_subword_prefix")
        )
        if model.get("type") != "BPE" or gives:
            return frozenset()
        vocabulary, normalise = model["vocab"], self._library.normalizer
        bytewise = "ByteLevel" in json.dumps([first, self._model.get("normalizer")])
        held = set("".join(entry["content"] for entry in self._model["added_tokens"]))

        def pieces(character: str) -> Sequence[str]:
            if bytewise:
                return [byte_letter(byte) for byte in character.encode()]
            return normalise.normalize_str(character) if normalise is not None else character

        return frozenset(c for c in characters - held if not c.isspace() and not vocabulary.keys() >= set(pieces(c)))

    @functools.cached_property
    def _model(self) -> Any:
        """The library's own `tokenizer.json` of the loaded tokenizer."""
        return json.loads(self._library.to_str())

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decode with the library; special tokens are shown."""
        return self._library.decode(self._checked(ids), skip_special_tokens=False)


class SentencePiece(Numbered):
    """A SentencePiece `.model` file; see Kudo and Richardson 2018. `decode` does not undo its normalisation.

    Small files beside it that add tokens raise `DataError`, since SentencePiece cannot hold them.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._beside = path, read_beside(path.parent) if path.name in _OWN else Beside()
        self.files: Mapping[str, Path] = {"tokenizer.model": path, **self._beside.files}
        content = _read(path)
        self.digest = digest_of([content, *map(_read, self._beside.files.values())])
        _check_class(path, self._beside, _SENTENCE_PIECE)
        try:
            import sentencepiece
        except ImportError:
            raise _missing("sentencepiece", path) from None
        try:
            self._library: Any = sentencepiece.SentencePieceProcessor(model_proto=content)
            pieces = self._library.id_to_piece(list(range(len(self._library))))
        except Exception as error:  # RuntimeError of its C++
            raise DataError(
                f"{path} is not a SentencePiece model ({first_line(error)}); data.tokens is {KINDS}"
            ) from error
        numbers = {piece: number for number, piece in enumerate(pieces)}
        added = all_added(path, numbers, self._beside)
        more = [token.content for token in added if token.content not in numbers]
        if more:
            raise DataError(
                f"{path.parent}: {', '.join(self._beside.files)} add {', '.join(map(repr, more[:6]))}, which SentencePiece "
                f"cannot hold; {_SAVE}"
            )
        # Single tokens according to the files beside, which SentencePiece splits into several.
        self._spelt = [t.content for t in added if self._library.encode(t.content, add_bos=False)[-1:] != [t.number]]
        self.symbols = tuple(show_spaces(piece) for piece in pieces)
        roles = {"begin": "bos_id", "end": "eos_id", "unknown": "unk_id", "padding": "pad_id"}
        own = {role: getattr(self._library, name)() for role, name in roles.items()}
        named = {role: numbers[content] for role, content in self._beside.special.items()}
        self.special = {**{role: number for role, number in own.items() if number >= 0}, **named}

    def encode(self, text: str) -> np.ndarray:
        """Encode with the library, without begin and end tokens."""
        written = next((content for content in self._spelt if content in text), None)
        if written is not None:
            raise DataError(
                f"the text holds {written!r}, which is one token in the files beside {self._path} but several in "
                f"SentencePiece; {_SAVE}"
            )
        try:
            return np.array(self._library.encode(text), np.int32)
        except (TypeError, UnicodeEncodeError) as error:  # a lone surrogate
            raise DataError(f"the text cannot be encoded ({first_line(error)}): {text[:40]!r}; is it UTF-8?") from error

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decode with the library."""
        return self._library.decode(self._checked(ids))


def _check_class(path: Path, beside: Beside, kinds: tuple[str, ...] | None) -> None:
    """Raise `DataError` if the files beside name a tokenizer class that reads this file differently."""
    said = beside.config.get("tokenizer_class")
    if kinds is _BYTE_LEVEL and said is None and path.name in _OWN:
        kind = read_object(path.parent / "config.json").get("model_type", "")
        said = kind if str(kind).startswith(_OTHER_MODELS) else None
    if kinds is not None and isinstance(said, str) and said.removesuffix("Fast").removesuffix("Tokenizer") not in kinds:
        raise DataError(
            f"{path} belongs to a {said}, which reads it differently; here {path.name} is read as that of "
            f"{', '.join(kinds[:4])}. Use its tokenizer.json, or {_SAVE}"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the tokenizer file {path} cannot be read ({error}); check data.tokens") from error


def _missing(package: str, path: Path) -> DataError:
    return DataError(f"{path} needs the package {package}, which is not installed; run `pip install jaxnets[text]`")
