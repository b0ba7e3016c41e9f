"""The kinds of attention that models offer, and the choice between them."""

from typing import Literal

from jax import Array

from jaxnets.ops.attention import dot_product_attention
from jaxnets.ops.attention_blocks import Pairs, as_arrays
from jaxnets.ops.flash_attention import flash_attention
from jaxnets.ops.split_attention import By, can_split, split_attention

Kind = Literal["plain", "flash"]
"""plain: the scores of all pairs are an array. flash: they never are, so memory grows with the length, not with its square."""


def attend(
    query: Array, key: Array, value: Array, pairs: Pairs | None = None, *, kind: Kind, split: By | None = None
) -> Array:
    """Softmax attention.

    Args:
        query: `[B, T, H, K]`.
        key: `[B, S, G, K]`, where G divides H; each is shared by H / G heads of the query.
        value: as `key`.
        pairs: who sees whom; None: everyone everyone. Where it has an offset the kind is plain.
        kind: plain or flash. They differ for a query that sees no key: plain gives it the mean of the values, flash zeros.
        split: how devices that hold parts of each sequence (`mesh.sequence`) work together; None: each sees whole ones.

    Returns:
        `[B, T, H, K]`, in the dtype of the query.
    """
    pairs = pairs or Pairs()
    causal, documents, slopes, window = pairs.causal, pairs.documents, pairs.slopes, pairs.window
    if split is not None and window is None and can_split():
        own = None if documents is None else documents[0]  # queries and keys are of the same positions
        flash = kind == "flash"
        return split_attention(query, key, value, by=split, causal=causal, documents=own, slopes=slopes, flash=flash)
    if kind == "flash":
        return flash_attention(query, key, value, causal=causal, documents=documents, slopes=slopes, window=window)
    return dot_product_attention(query, key, value, **as_arrays(pairs, query, key))
