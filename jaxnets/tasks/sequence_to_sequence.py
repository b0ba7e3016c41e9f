"""Sequence to sequence: translation, reversal.

Shapes: `B` batch, `S` source tokens, `T` target tokens, `N` generated tokens, `V` target vocabulary.
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
    """Minimise the cross entropy of each target token given the target tokens before it ("teacher forcing").

    A batch holds `inputs` `[B, S]` and `targets` `[B, T]`, integers padded with 0, the targets with an end token, and `mask`
    `[B]`. Targets that are -100 do not count, like padding. The model is a `Seq2SeqTransformer`. The task's outputs are the
    sequences that the model generates.
    """

    label_smoothing: float = 0.0
    """Share of each target spread evenly over all tokens in training, in [0, 1)."""
    written: Literal["none", "exact", "bleu"] = "exact"
    """The metric of generated sequences in an evaluation: none, the share that equals the target, or BLEU."""
    beam: int = 1
    """Beam width; 1 is greedy decoding."""
    length_penalty: float = 0.6
    """Length penalty of beam search (see `jaxnets.models.beam_search`)."""
    length: int | None = None
    """Most tokens to generate; None: the length of the longest target."""

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
        """The main metric: that of the generated sequences if there is one, else the loss."""
        return "loss" if self.written == "none" else self.written

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Whether a larger headline is better."""
        return self.written != "none"

    def bind(self, card: Card) -> Self:
        """Set both vocabularies of the model and the generation length."""
        check_kind(card, "sequence", "SequenceToSequence needs pairs of sequences")
        if not isinstance(self.model, Seq2SeqTransformer):
            raise DataError(
                f"SequenceToSequence needs a model that generates sequences, and {type(self.model).__name__} does not; use "
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
        """The source, and the target shifted right by one after the begin token."""
        previous = jnp.pad(_targets(batch)[:, :-1], ((0, 0), (1, 0)), constant_values=BEGIN)
        return Pair(batch["inputs"], previous)

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean cross entropy in nats per token."""
        logits, model_state = self.apply(variables, batch, key if train else None)
        measured = _measure(logits, batch, self.label_smoothing if train else 0.0)
        return measured["loss"], Aux(measured, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """With teacher forcing: nats per token (never smoothed), token and sequence accuracy. Also the `written` metric."""
        measured = _measure(self.apply(variables, batch, None)[0], batch, 0.0)
        if self.written == "none":
            return measured
        written, targets = self.write(variables, batch["inputs"]), _targets(batch)
        counted = batch["mask"] * (targets != PAD).any(axis=1)
        if self.written == "bleu":
            return {**measured, **bleu_counts(written, targets, counted)}
        longest = max(written.shape[1], targets.shape[1])
        written, targets = (jnp.pad(a, ((0, 0), (0, longest - a.shape[1]))) for a in (written, targets))
        return {**measured, "exact": Mean.of((written == targets).all(axis=1).astype(jnp.float32), counted)}

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """Adds BLEU in percent, if its sums were measured."""
        return {**values, "bleu": bleu(values)} if "length_ratio" in values else dict(values)

    def write(self, variables: Variables, source: Array) -> Array:
        """Generate sequences `[B, N]` int32 for sources `[B, S]`."""
        model: Any = self.model
        if self.beam == 1:
            return greedy(model, variables, source, self.length or model.length)
        found = beam_search(
            model, variables, source, self.length or model.length, width=self.beam, penalty=self.length_penalty
        )
        return found.tokens[:, 0]

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """The generated sequences, token ids `[B, N]` as float32."""
        return self.write(variables, batch["inputs"]).astype(jnp.float32)

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """Token ids `[B, N]` int32."""
        return outputs.astype(np.int32)

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check that targets are integer sequences, and that generation works for these shapes."""
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
        """Some test sources, the generated sequences and the references."""
        assert card.tokens is not None
        rows = []
        for i in evenly(len(outputs), 16):
            source = spell(arrays["inputs"][i], card.tokens.names, card.tokens.unit)
            written, right = (spell(ids[i], card.class_names, card.tokens.unit) for ids in (outputs, arrays["targets"]))
            rows.append((source, written, right, "yes" if written == right else ""))
        how = "greedy" if self.beam == 1 else f"a beam of {self.beam}"
        header = ("source", f"generated ({how})", "reference", "equal")
        return [Table("Generated sequences (test)", header, tuple(rows))]


def _with_vocabularies(model: Any, card: Card) -> Any:
    """The model with the vocabulary sizes of source and target; a shared embedding needs equal vocabularies."""
    read, written = card.tokens.names if card.tokens else (), card.class_names
    if model.embedding == "shared" and read != written:
        raise DataError(
            f"Seq2SeqTransformer.embedding is shared, but {card.name!r} has {len(read)} source tokens and {len(written)} "
            f"different target tokens; set task.model.embedding to tied"
        )
    return with_vocabulary(model, card.name, vocab_size=len(written), source_vocab_size=len(read))


def _targets(batch: Batch) -> Array:
    """The targets as int32 `[B, T]`, with ignored targets as padding."""
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
