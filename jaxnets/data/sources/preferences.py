"""Pairs of a preferred and a rejected answer, for `tasks.DPO`."""

import dataclasses
import json

import numpy as np

from jaxnets.core.errors import DataError, note
from jaxnets.core.files import user_path
from jaxnets.data.dataset import Arrays, Dataset, TokenIds
from jaxnets.data.sources.chat import Chat
from jaxnets.data.text.chat import encode_conversation
from jaxnets.data.text.textfile import read_text
from jaxnets.data.text.tokenizers import open_tokenizer
from jaxnets.data.text.vocabulary import narrowest
from jaxnets.ops.tokens import IGNORED

FIELDS = ("prompt", "chosen", "rejected")


@dataclasses.dataclass(frozen=True)
class Preferences(Chat):
    """Prompts with two answers each, one of them preferred; the file has JSON lines of {"prompt", "chosen", "rejected"}.

    Arrays are `inputs` and `targets` as in `Chat`, of the preferred answer, and `rejected_inputs` and `rejected_targets`.
    """

    def open(self) -> Dataset:
        """Read and encode the pairs; raises `DataError` for a line without the three texts."""
        if not 0 < self.holdout < 1 or self.length < 2:
            raise DataError(
                f"holdout is a share in (0, 1) and length at least 2, got {self.holdout} and {self.length}; change them"
            )
        path, tokenizer = user_path(self.path), open_tokenizer(self.tokens)
        template, rows, left = self.turns(tokenizer), list[dict[str, np.ndarray]](), 0
        lines = [(n, line) for n, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]
        for number, line in lines:
            where, row = f"{path}, line {number}", {}
            texts = _texts(line, where)
            for name, prefix in (("chosen", ""), ("rejected", "rejected_")):
                turns = [("user", texts["prompt"]), ("assistant", texts[name])]
                ids, learned = encode_conversation(turns, template, tokenizer, where=where)
                row[f"{prefix}inputs"], row[f"{prefix}targets"] = self._row(ids, learned)
            if any((row[name] == IGNORED).all() for name in ("targets", "rejected_targets")):
                left += 1
                continue
            rows.append(row)
        if left:
            note(f"{path}: {left:,} of {len(lines):,} pairs are left out, whose prompt fills {self.length} tokens")
        held = max(1, round(len(rows) * self.holdout))
        if held >= len(rows):
            raise DataError(
                f"{path} has {len(rows)} pairs of up to {self.length} tokens; give at least two, one for the test"
            )
        dtype = narrowest(len(tokenizer.symbols))

        def stacked(part: list[dict[str, np.ndarray]]) -> Arrays:
            made = {name: np.stack([row[name] for row in part]) for name in part[0]}
            return {name: array.astype(dtype) if name.endswith("inputs") else array for name, array in made.items()}

        return Dataset(
            name=path.stem,
            train=stacked(rows[:-held]),
            test=stacked(rows[-held:]),
            class_names=tokenizer.symbols,
            target_kind="token",
            target_name="next token",
            prepare=TokenIds(),
            source=f"{self.path} as {self._name(tokenizer)}",
            tokenizer=tokenizer,
        )


def _texts(line: str, where: str) -> dict[str, str]:
    try:
        given = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(given, dict) or not all(isinstance(given.get(name), str) for name in FIELDS):
        raise DataError(f"{where} needs the texts {', '.join(FIELDS)}; it is {line[:80]}")
    return {name: given[name] for name in FIELDS}
