"""Conversations for fine-tuning a language model."""

import dataclasses
from typing import Literal

import numpy as np

from jaxnets.core.errors import DataError, note
from jaxnets.core.files import user_path
from jaxnets.data.dataset import Arrays, Dataset, Source, TokenIds
from jaxnets.data.text.chat import TEMPLATES, Template, encode_conversation, read_conversations
from jaxnets.data.text.tokenizers import Tokenizer, open_tokenizer
from jaxnets.data.text.vocabulary import narrowest
from jaxnets.ops.tokens import IGNORED


@dataclasses.dataclass(frozen=True)
class Chat(Source):
    """Conversations, one for each example; the model learns the assistant's messages and their end tokens.

    Inputs `[length]` are token ids, padded with 0 at the end. Targets are the next tokens in the assistant's messages, and
    -100 (which does not count) elsewhere.
    """

    path: str
    """JSON lines of {"messages": [{"role": "user", "content": "..."}, ...]}, or of {"prompt": "...", "completion": "..."}."""
    tokens: str = "bytes"
    """The tokenizer, as in `Text`: a folder or file of the model's own."""
    template: Literal["auto", "chatml", "llama3", "plain"] = "auto"
    """The template of turns; auto: the one whose special tokens the tokenizer has, else plain."""
    length: int = 512
    """Tokens of an example; longer conversations are cut at the end."""
    holdout: float = 0.1
    """Share of the conversations in the test split, the last ones, in (0, 1)."""

    def open(self) -> Dataset:
        """Read and encode the conversations; raises `DataError` if one is damaged or nothing is left to learn."""
        if not 0 < self.holdout < 1 or self.length < 2:
            raise DataError(
                f"holdout is a share in (0, 1) and length at least 2, got {self.holdout} and {self.length}; change them"
            )
        path, tokenizer = user_path(self.path), open_tokenizer(self.tokens)
        template, conversations = self.turns(tokenizer), read_conversations(path)
        held = max(1, round(len(conversations) * self.holdout))
        if held >= len(conversations):
            raise DataError(f"{path} has {len(conversations)} conversations; give at least two, one for the test")
        rows, empty, cut = [], 0, 0
        for number, turns in enumerate(conversations):
            ids, learned = encode_conversation(turns, template, tokenizer, where=f"{path}, conversation {number + 1}")
            cut += len(ids) > self.length + 1
            inputs, targets = self._row(ids, learned)
            if (targets == IGNORED).all():
                empty += 1
                continue
            rows.append((number < len(conversations) - held, inputs, targets))
        if cut:
            note(
                f"{path}: {cut:,} of {len(conversations):,} conversations have more than {self.length} tokens and are cut; "
                f"{empty:,} are left out, since nothing to learn remains. --data.length takes more"
            )
        dtype = narrowest(len(tokenizer.symbols))
        splits = [_stacked([row for row in rows if row[0] is training], dtype) for training in (True, False)]
        if any(split is None for split in splits):
            raise DataError(f"{path}: no conversation is left in a split; set data.length to more than {self.length}")
        train, test = splits
        assert train is not None
        assert test is not None
        return Dataset(
            name=path.stem,
            train=train,
            test=test,
            class_names=tokenizer.symbols,
            target_kind="token",
            target_name="next token",
            prepare=TokenIds(),
            source=f"{self.path} as {self._name(tokenizer)}",
            tokenizer=tokenizer,
        )

    def turns(self, tokenizer: Tokenizer) -> Template:
        """How turns are written for a tokenizer."""
        template, end = TEMPLATES[self._name(tokenizer)], tokenizer.special.get("end")
        if template.before or end is None:
            return template
        return dataclasses.replace(template, end=tokenizer.symbols[end], gap="\n")

    def _name(self, tokenizer: Tokenizer) -> str:
        return self.template if self.template != "auto" else _template_for(tokenizer.symbols)

    def _row(self, ids: np.ndarray, learned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets `[length]` of one conversation."""
        inputs, targets = np.zeros(self.length, np.int32), np.full(self.length, IGNORED, np.int32)
        count = min(len(ids) - 1, self.length)
        inputs[:count] = ids[:count]
        targets[:count] = np.where(learned[1 : count + 1], ids[1 : count + 1], IGNORED)
        return inputs, targets


def _template_for(symbols: tuple[str, ...]) -> str:
    """The template whose special tokens are all in a vocabulary; plain if there is none."""
    known = set(symbols)
    return next((name for name, one in TEMPLATES.items() if one.before and {one.before, one.end} <= known), "plain")


def _stacked(rows: list[tuple[bool, np.ndarray, np.ndarray]], dtype: np.dtype) -> Arrays | None:
    if not rows:
        return None
    return {"inputs": np.stack([row[1] for row in rows]).astype(dtype), "targets": np.stack([row[2] for row in rows])}
