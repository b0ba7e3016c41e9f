"""Added and special tokens from the small files beside a tokenizer file.

The Hugging Face library writes these files: `added_tokens.json`, `special_tokens_map.json` and `tokenizer_config.json`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnets.core.errors import DataError, first_line

FILES = ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")
# Hugging Face's names of the special tokens -> ours.
ROLES = {"bos_token": "begin", "eos_token": "end", "unk_token": "unknown", "pad_token": "padding"}
_NAMED = (*ROLES, "sep_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclasses.dataclass(frozen=True)
class Added:
    """A token that is matched in a text before the tokenizer splits the rest."""

    content: str
    number: int
    single_word: bool = False
    """Matches only whole words."""
    lstrip: bool = False
    """Includes the white space before it."""
    rstrip: bool = False
    """Includes the white space after it."""
    normalized: bool = True
    """Is matched in the normalised text."""
    special: bool = False
    """Is a control token, not text."""

    def entry(self) -> dict[str, Any]:
        """Its entry in a `tokenizer.json`."""
        return {"id": self.number, "content": self.content, **{flag: getattr(self, flag) for flag in _FLAGS}}


@dataclasses.dataclass(frozen=True)
class Beside:
    """The content of the small files beside a tokenizer file."""

    tokens: tuple[Added, ...] = ()
    """The added tokens, sorted by id."""
    marks: tuple[str, ...] = ()
    """Tokens that are named as special; their ids are in the vocabulary or in `tokens`."""
    special: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """"begin", "end", "unknown", "padding" -> token."""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The content of `tokenizer_config.json`."""
    files: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    """The files that exist, by name."""


def read_beside(folder: Path) -> Beside:
    """Read the small files of a folder; raises `DataError` if they are damaged or contradict each other."""
    files = {name: folder / name for name in FILES if (folder / name).is_file()}
    if not files:
        return Beside()
    data = {name: read_object(path) for name, path in files.items()}
    config, named = data.get("tokenizer_config.json", {}), data.get("special_tokens_map.json", {})
    roles = {**{k: v for k, v in named.items() if v}, **{k: v for k, v in config.items() if k in _NAMED and v}}
    marks = [_content(folder, key, roles[key]) for key in _NAMED if key in roles]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        for said in (config.get(key), named.get(key)):
            listed = said.values() if isinstance(said, dict) else said or ()
            marks += [_content(folder, key, token) for token in listed]
    tokens: dict[str, Added] = {}
    listed = config.get("added_tokens_decoder") or {}
    found = [(_from_decoder(folder, number, entry), "tokenizer_config.json") for number, entry in listed.items()]
    for content, number in data.get("added_tokens.json", {}).items():
        # The library matches special tokens before normalisation.
        special = content in marks
        added = Added(content, _number(folder, content, number), normalized=not special, special=special)
        found.append((added, "added_tokens.json"))
    for added, file in found:
        other = tokens.setdefault(added.content, added)
        if other.number != added.number:
            raise DataError(
                f"{folder}: {added.content!r} is token {other.number} in tokenizer_config.json and {added.number} in {file}; "
                f"use files of one tokenizer"
            )
    return Beside(
        tokens=tuple(sorted(tokens.values(), key=lambda token: token.number)),
        marks=tuple(dict.fromkeys(marks)),
        special={ours: _content(folder, theirs, roles[theirs]) for theirs, ours in ROLES.items() if theirs in roles},
        config=config,
        files=files,
    )


def all_added(path: Path, pieces: Mapping[str, int], beside: Beside) -> tuple[Added, ...]:
    """All added tokens with their ids; raises `DataError` if two tokens share an id.

    Args:
        path: the tokenizer file, for messages.
        pieces: its pieces and their ids.
        beside: the content of the files beside it.
    """
    found = {token.content: token for token in beside.tokens}
    for content in beside.marks:
        if content not in found:
            if content not in pieces:
                raise DataError(
                    f"{path.parent}: {content!r} is named as a special token but has no id, neither in {path.name} nor in "
                    f"added_tokens.json; save the tokenizer again with `save_pretrained`, or remove the name"
                )
            found[content] = Added(content, pieces[content], normalized=False, special=True)
    numbers = {number: piece for piece, number in pieces.items()}
    for token in found.values():
        mine, other = pieces.get(token.content, token.number), numbers.get(token.number, token.content)
        if mine != token.number or other != token.content:
            raise DataError(
                f"{path.parent}: the added token {token.content!r} has id {token.number}, but in {path.name} "
                + (f"it is {mine}" if mine != token.number else f"that is {other!r}")
                + "; use files of one tokenizer"
            )
        numbers[token.number] = token.content
    return tuple(sorted(found.values(), key=lambda token: token.number))


def with_added(data: dict[str, Any], added: tuple[Added, ...]) -> dict[str, Any]:
    """A `tokenizer.json` with more added tokens, each with the id that its file declares.

    The library numbers added tokens consecutively after the vocabulary and ignores their declared ids; pieces of the
    vocabulary keep theirs. So tokens that would get another id become pieces too (no merge makes them, so other texts are
    encoded as before).
    """
    entries = {entry["content"]: entry for entry in data.get("added_tokens") or []}
    entries |= {token.content: token.entry() for token in added if token.content not in entries}
    vocabulary = data["model"]["vocab"]
    if isinstance(vocabulary, dict):
        vocabulary, following = dict(vocabulary), len(vocabulary)
        gaps = bool(vocabulary) and max(vocabulary.values()) >= len(vocabulary)
        for content, entry in sorted(entries.items(), key=lambda item: item[1]["id"]):
            if content in vocabulary:
                continue
            if gaps or entry["id"] != following:
                vocabulary[content], gaps = entry["id"], True
            following += 1
    ordered = sorted(entries.values(), key=lambda entry: entry["id"])
    return {**data, "model": {**data["model"], "vocab": vocabulary}, "added_tokens": ordered}


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file, {} if there is no such file; raises `DataError` if it is damaged."""
    try:
        if not path.is_file():
            return {}
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({first_line(error)}); download it again") from error
    if not isinstance(data, dict):
        raise DataError(f"{path} holds {type(data).__name__}, expected an object")
    return data


def _content(folder: Path, key: str, said: Any) -> str:
    content = said.get("content") if isinstance(said, dict) else said
    if not isinstance(content, str) or not content:
        raise DataError(f"{folder}: {key} is {str(said)[:100]}, expected a token")
    return content


def _number(folder: Path, content: str, number: Any) -> int:
    if isinstance(number, bool) or not str(number).isdecimal():
        raise DataError(f"{folder}: the added token {content!r} has number {number!r}, expected a whole number")
    return int(number)


def _from_decoder(folder: Path, number: Any, entry: Any) -> Added:
    content = _content(folder, f"added_tokens_decoder[{number}]", entry)
    flags = {flag: bool(entry[flag]) for flag in _FLAGS if isinstance(entry, dict) and flag in entry}
    flags.setdefault("normalized", not flags.get("special", False))
    return Added(content, _number(folder, content, number), **flags)
