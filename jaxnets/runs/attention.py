"""The attention of a model for one test example, for the report."""

from typing import Any

import jax
import numpy as np

from jaxnets.core.types import AttentionMap, Batch
from jaxnets.data.feed import Transform
from jaxnets.data.large import shown
from jaxnets.models import LanguageModel, Seq2SeqTransformer, TransformerEncoder, ViT
from jaxnets.models.wrapper import without_wrappers
from jaxnets.ops.attention import attention_weights
from jaxnets.ops.tokens import END, PAD
from jaxnets.parallel.mesh import batch_devices, placement

# Tokens along an axis; what follows is left out, so that their names can be read.
MOST_TOKENS = 16
MOST_HEADS = 8


def attention_of(run: Any) -> list[AttentionMap]:
    """The weights of (up to eight) heads of the last layer for the first test example; [] for a model without attention.

    A decoder with a source shows its attention to the source. Layers that are stacked in one scan, and those whose
    activations are recomputed, are not shown: their values do not leave the scan. Flash attention, and that of sequences which
    devices divide, is computed plainly for this example.
    """
    parts = run.parts
    model: Any = without_wrappers(parts.task.model)
    inside = getattr(model, "blocks", "unrolled") != "unrolled" or getattr(model, "remat", "none") != "none"
    known = isinstance(model, (LanguageModel, Seq2SeqTransformer, TransformerEncoder, ViT))
    if not known or inside or parts.dataset.several:
        return []
    batch = _first_example(parts)
    weights = _last_weights(parts, run.variables, batch)
    if weights is None:
        return []
    rows, columns = _names(parts, model, {name: np.asarray(array) for name, array in batch.items()})
    many = not isinstance(model, ViT) and max(len(rows), len(columns)) > MOST_TOKENS
    if many:
        rows, columns = rows[:MOST_TOKENS], columns[:MOST_TOKENS]
    what = f"first {MOST_TOKENS} tokens of one test example" if many else "one test example"
    title = f"Attention of the last layer ({what})"
    return [AttentionMap(title, np.asarray(weights)[0, :MOST_HEADS, : len(rows), : len(columns)], rows, columns)]


def _first_example(parts: Any) -> Batch:
    """The first test example as a batch, as often as there are devices."""
    transform = Transform(parts.dataset.preparation, parts.task.encode_targets)
    index = np.zeros(batch_devices(parts.mesh), np.int32)
    sent = transform.on_host(shown(parts.dataset.test, index))
    sent |= {"mask": np.ones(len(index), np.float32), "index": index}
    return transform.on_device({name: jax.numpy.asarray(a) for name, a in sent.items()}, jax.numpy.zeros((), int))


def _last_weights(parts: Any, variables: Any, batch: Batch) -> jax.Array | None:
    """The attention weights `[B, H, T, S]` of the last layer; None if no attention outside of a scan has any."""

    def last(variables: Any, batch: Batch) -> jax.Array | None:
        with attention_weights() as seen:
            parts.task.apply(*parts.experiment.precision.cast(variables, batch), None)
        return seen[-1] if seen else None

    return jax.jit(last, out_shardings=placement(parts.mesh).whole)(variables, batch)


def _names(parts: Any, model: Any, batch: dict[str, np.ndarray]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the rows (that attend) and the columns (attended to) are."""
    card = parts.dataset.card
    tokens = batch["inputs"][0]
    if isinstance(model, ViT):
        height, width = (size // model.patch for size in tokens.shape[:2])
        names = tuple(f"{row},{column}" for row in range(height) for column in range(width))
        names = ("class", *names) if model.pool == "token" else names
        return names, names
    symbols = card.tokens.names if card.tokens else card.class_names if card.target_kind == "token" else ()
    if isinstance(model, LanguageModel):
        names = _spelled(tokens, symbols)
        return names, names
    names = _spelled(tokens[: np.flatnonzero(tokens)[-1] + 1] if tokens.any() else tokens[:1], symbols)
    if isinstance(model, Seq2SeqTransformer):
        previous = np.asarray(parts.task.inputs_of(batch).previous)[0]
        return _spelled(previous[(previous != PAD) & (previous != END)], card.class_names), names
    names = ("class", *names) if model.pool == "token" else names
    return names, names


def _spelled(tokens: np.ndarray, symbols: tuple[str, ...]) -> tuple[str, ...]:
    """The names of tokens, one of white space as Python writes it; their numbers if they have no names."""
    names = [symbols[token] if token < len(symbols) else str(token) for token in tokens.tolist()]
    return tuple(name if name.strip() and name.isprintable() else repr(name) for name in names)
