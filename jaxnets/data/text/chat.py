"""Conversations as tokens, with a mask of the tokens that a model is to learn: the assistant's messages and their end tokens.

A turn is encoded in parts: the special tokens of the template, the role, the content. So the text of a message never becomes a
special token.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.core.errors import DataError, first_line
from jaxnets.data.text.textfile import read_text
from jaxnets.data.text.tokenizers import Tokenizer

ROLES = ("system", "user", "assistant", "tool")
# The role whose messages are learned.
LEARNED = "assistant"


@dataclasses.dataclass(frozen=True)
class Template:
    """How a turn is written: `before` ROLE `after` CONTENT `end` `gap`."""

    before: str
    after: str
    end: str
    gap: str = ""
    begin: str = ""
    """Before the first turn."""


TEMPLATES = {
    # Qwen and many others.
    "chatml": Template("<|im_start|>", "\n", "<|im_end|>", "\n"),
    "llama3": Template("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", begin="<|begin_of_text|>"),
    # For tokenizers without special tokens for turns: bytes, characters, GPT-2.
    "plain": Template("", ": ", "\n\n"),
}


def read_conversations(path: Path) -> list[list[tuple[str, str]]]:
    """Conversations from a file: JSON lines (or one JSON list) of `{"messages": [{"role": ..., "content": ...}, ...]}`, or of
    `{"prompt": ..., "completion": ...}`. Each is a list of (role, content).

    Raises:
        DataError: the file is damaged or of another form, with the line.
    """
    text = read_text(path)
    try:
        if text.lstrip().startswith("["):
            entries = list(enumerate(json.loads(text), start=1))
        else:
            lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
            entries = []
            for number, line in lines:
                entries.append((number, _json(path, number, line)))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({first_line(error)}); give one object a line") from error
    return [_turns(path, number, entry) for number, entry in entries]


def encode_conversation(
    turns: Sequence[tuple[str, str]], template: Template, tokenizer: Tokenizer, *, where: str = "the conversation"
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids `[T]` int32 of a conversation, and which of them are learned, `[T]` bool.

    Raises:
        DataError: a message holds a mark of the template as text.
    """
    known = {symbol: number for number, symbol in enumerate(tokenizer.symbols)}
    parts = (template.before, template.end, template.begin, *_split_marks(template.after))
    marks = [part for part in parts if part in known and part.startswith("<")]
    ids: list[np.ndarray] = []
    learned: list[np.ndarray] = []

    def add(part: np.ndarray, learn: bool) -> None:
        ids.append(part.astype(np.int32))
        learned.append(np.full(len(part), learn))

    def mark(text: str) -> np.ndarray:
        return np.array([known[text]]) if text in known else tokenizer.encode(text) if text else np.zeros(0, np.int32)

    add(mark(template.begin) if template.begin in known else np.zeros(0, np.int32), False)
    for role, content in turns:
        found = next((one for one in marks if one in content), None)
        if found is not None:
            raise DataError(
                f"{where}: a message of {role!r} holds {found!r}, which marks turns; remove it from the text"
            )
        add(mark(template.before), False)
        for part in [role, *_split_marks(template.after)]:
            add(mark(part), False)
        add(tokenizer.encode(content), role == LEARNED)
        add(mark(template.end), role == LEARNED)
        add(mark(template.gap), False)
    return np.concatenate(ids), np.concatenate(learned)


def prompt_of(turns: Sequence[tuple[str, str]], template: Template, tokenizer: Tokenizer) -> np.ndarray:
    """Token ids `[T]` of a conversation and of the beginning of the assistant's next turn, for generation."""
    ids, _ = encode_conversation([*turns, (LEARNED, "")], template, tokenizer)
    closing, _ = encode_conversation([(LEARNED, "")], dataclasses.replace(template, begin=""), tokenizer)
    opening, _ = encode_conversation(
        [(LEARNED, "")], dataclasses.replace(template, begin="", end="", gap=""), tokenizer
    )
    return ids[: len(ids) - (len(closing) - len(opening))]


def _split_marks(text: str) -> list[str]:
    """`<|end_header_id|>\\n\\n` as its mark and the rest."""
    if text.startswith("<|") and "|>" in text:
        end = text.index("|>") + 2
        return [part for part in (text[:end], text[end:]) if part]
    return [text] if text else []


def _json(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number} is not JSON ({first_line(error)}); give one object a line") from error


def _turns(path: Path, number: int, entry: Any) -> list[tuple[str, str]]:
    """One conversation, checked."""
    place = f"{path}, conversation {number}"
    if isinstance(entry, Mapping) and "messages" not in entry and {"prompt", "completion"} <= entry.keys():
        entry = {"messages": [
            {"role": "user", "content": entry["prompt"]}, {"role": LEARNED, "content": entry["completion"]},
        ]}  # fmt: skip
    messages = entry.get("messages") if isinstance(entry, Mapping) else None
    if not isinstance(messages, list) or not messages:
        raise DataError(f'{place} has no messages; give {{"messages": [{{"role": "user", "content": "..."}}, ...]}}')
    turns = []
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        content = message.get("content") if isinstance(message, Mapping) else None
        if role not in ROLES or not isinstance(content, str):
            raise DataError(
                f"{place}: a message is {str(message)[:120]}; it needs a role ({', '.join(ROLES)}) and a text as content"
            )
        turns.append((role, content))
    if all(role != LEARNED for role, _ in turns):
        raise DataError(f"{place} has no turn of the {LEARNED}, so there is nothing to learn from it; leave it out")
    return turns
