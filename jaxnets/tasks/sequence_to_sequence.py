"""One sequence from another: translation, reversal.

Shapes: `B` batch, `S` source tokens, `T` target tokens, `N` tokens written, `V` target vocabulary.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Mean, Table, Variables
from jaxnets.models.beam import beam_search, greedy
from jaxnets.models.transformer import Pair, Seq2SeqTransformer
from jaxnets.ops.tokens import BEGIN, IGNORED, PAD, spell
from jaxnets.tasks.base import Task, check_kind, evenly, with_vocabulary
from jaxnets.tasks.bleu import bleu, bleu_counts
from jaxnets.tasks.losses import token_cross_entropy


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceToSequence(Task):
    """Minimise the cross entropy of each target token after those before it ("teacher forcing").

    A batch holds `inputs` `[B, S]` and `targets` `[B, T]`, integers filled up with 0, the targets with the end token, and
    `mask` `[B]`; targets that are -100 count no more than those that are 0. The model is a `Seq2SeqTransformer`. Its outputs
    are the sequences that it writes by itself.
    """

    label_smoothing: float = 0.0
    """Share of each target spread evenly over all tokens while training, in [0, 1)."""
    written: Literal["none", "exact", "bleu"] = "exact"
    """What an evaluation measures of the sequences that the model writes by itself: nothing, the share that equals the target,
    or BLEU with it."""
    beam: int = 1
    """Beginnings that are kept while writing; 1 takes the likeliest token each time."""
    length_penalty: float = 0.6
    """Of beam search (see `jaxnets.models.beam_search`)."""
    length: int | None = None
    """Most tokens written; None: as many as the longest target has."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is a share in [0, 1), got {self.label_smoothing}")
        if self.beam < 1:
            raise ValueError(f"beam is at least 1, got {self.beam}")
        if not self.length_penalty >= 0:
            raise ValueError(f"length_penalty is at least 0, got {self.length_penalty}")
        if self.length is not None and self.length < 1:
            raise ValueError(f"length is at least 1, or None; got {self.length}")

    @property
    def headline(self) -> str:  # type: ignore[override]
        """The metric to name a run by: what it writes, where that is measured."""
        return "loss" if self.written == "none" else self.written

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Which way it improves."""
        return self.written != "none"

    def bind(self, card: Card) -> Self:
        """Give the model both vocabularies, and the writing its limit."""
        check_kind(card, "sequence", "SequenceToSequence needs pairs of sequences")
        if not isinstance(self.model, Seq2SeqTransformer):
            raise DataError(
                f"SequenceToSequence needs a model that writes, and {type(self.model).__name__} does not; use "
                f"Seq2SeqTransformer"
            )
        model = _with_vocabularies(self.model, card)
        length = self.length or card.target_shape[0]
        longest = max(card.input_shape[0], card.target_shape[0], length)
        if model.length < longest:
            raise DataError(
                f"{card.name!r} has sequences of {longest} tokens, more than Seq2SeqTransformer.length {model.length}; set "
                f"task.model.length to {longest}"
            )
        return dataclasses.replace(self, model=model, length=length)

    def inputs_of(self, batch: Batch) -> Pair:
        """The source, and the target moved by one behind the begin token."""
        previous = jnp.pad(_targets(batch)[:, :-1], ((0, 0), (1, 0)), constant_values=BEGIN)
        return Pair(batch["inputs"], previous)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean cross entropy in nats a token."""
        logits, model_state = self.apply(variables, batch, key if train else None)
        measured = _measure(logits, batch, self.label_smoothing if train else 0.0)
        return measured["loss"], Aux(measured, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """By teacher forcing: nats a token (never smoothed), tokens guessed, sequences guessed whole; and what is written."""
        measured = _measure(self.apply(variables, batch, None)[0], batch, 0.0)
        if self.written == "none":
            return measured
        said, targets = self.write(variables, batch["inputs"]), _targets(batch)
        counted = batch["mask"] * (targets != PAD).any(axis=1)
        if self.written == "bleu":
            return {**measured, **bleu_counts(said, targets, counted)}
        longest = max(said.shape[1], targets.shape[1])
        said, targets = (jnp.pad(a, ((0, 0), (0, longest - a.shape[1]))) for a in (said, targets))
        return {**measured, "exact": Mean.of((said == targets).all(axis=1).astype(jnp.float32), counted)}

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """With BLEU, in percent, where its sums are."""
        return {**values, "bleu": bleu(values)} if "length_ratio" in values else dict(values)

    def write(self, variables: Variables, source: Array) -> Array:
        """The sequences that the model writes by itself for sources `[B, S]`, `[B, N]` int32."""
        model: Any = self.model
        if self.beam == 1:
            return greedy(model, variables, source, self.length or model.length)
        found = beam_search(
            model, variables, source, self.length or model.length, width=self.beam, penalty=self.length_penalty
        )
        return found.tokens[:, 0]

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """The sequences that the model writes by itself, token numbers `[B, N]` as float32."""
        return self.write(variables, batch["inputs"]).astype(jnp.float32)

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """Token numbers `[B, N]` int32."""
        return outputs.astype(np.int32)

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Targets are sequences of integers, and writing works for their shapes."""
        if len(batch["targets"].shape) != 2 or not jnp.issubdtype(batch["targets"].dtype, jnp.integer):
            raise DataError(
                f"the targets of {card.name!r} are {batch['targets'].dtype}{list(batch['targets'].shape)}, but "
                f"SequenceToSequence needs tokens [batch, positions]"
            )
        jax.eval_shape(self.outputs, variables, batch)

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """Sixteen sources."""
        return evenly(examples, 16)

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """Some test sources, what the model writes and what was to be written."""
        assert card.tokens is not None
        rows = []
        for i in evenly(len(outputs), 16):
            source = spell(arrays["inputs"][i], card.tokens.names, card.tokens.unit)
            said, right = (spell(ids[i], card.class_names, card.tokens.unit) for ids in (outputs, arrays["targets"]))
            rows.append((source, said, right, "yes" if said == right else ""))
        how = "the likeliest token each time" if self.beam == 1 else f"a beam of {self.beam}"
        header = ("source", f"the model writes ({how})", "reference", "equal")
        return [Table("What the model writes (test)", header, tuple(rows))]


def _with_vocabularies(model: Any, card: Card) -> Any:
    """The model with as many tokens on either side as the data have; a shared embedding needs the same ones on both."""
    read, written = card.tokens.names if card.tokens else (), card.class_names
    if model.embedding == "shared" and read != written:
        raise DataError(
            f"Seq2SeqTransformer.embedding is shared, but {card.name!r} has {len(read)} tokens to read and other "
            f"{len(written)} to write; set task.model.embedding to tied"
        )
    return with_vocabulary(model, card.name, vocab_size=len(written), source_vocab_size=len(read))


def _targets(batch: Batch) -> Array:
    """The targets as int32 `[B, T]`; those that do not count are padding."""
    targets = batch["targets"].astype(jnp.int32)
    return jnp.where(targets == IGNORED, PAD, targets)


def _measure(logits: Array, batch: Batch, smoothing: float) -> dict[str, Mean]:
    targets = _targets(batch)
    real = (targets != PAD) & (batch["mask"] > 0)[:, None]
    losses = token_cross_entropy(logits, targets, label_smoothing=smoothing)
    hit = jnp.argmax(logits, axis=-1) == targets
    weight = (real * batch["mask"][:, None]).reshape(-1)
    return {
        "loss": Mean.of(losses.reshape(-1), weight),
        "accuracy": Mean.of(hit.astype(jnp.float32).reshape(-1), weight),
        "sequence_accuracy": Mean.of((hit | ~real).all(axis=1).astype(jnp.float32), batch["mask"] * real.any(axis=1)),
    }
