"""Scanned blocks that devices do not run together: as the stages of a pipeline, or each device on its own rows."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.ops.own_rows import on_own_rows, own_axes
from jaxnets.ops.pipeline import pipelined, stages
from jaxnets.ops.split_attention import can_split


def apart(model: Any, block: nn.Module, x: Array, train: bool, packed: Any) -> Array | None:
    """The outputs of a model's blocks for `x` `[B, T, D]`; None if all devices of the mesh in use run them together.

    Args:
        model: with stacked parameters `blocks`, and the fields of a `LanguageModel`.
        block: one of its blocks, without a parent.
        x: activations.
        train: whether a gradient is taken.
        packed: of the documents of each row, or None.
    """
    extras = (packed, jnp.arange(x.shape[0]))
    if stages() > 1:  # each part of the batch draws its own dropout
        key = model.make_rng("dropout") if train and model.dropout else None
        run = _layers(block, train, key)
        return pipelined(run, model.variables["params"]["blocks"], x, extras, rounds=model.pipeline_rounds)
    # Only if rows are independent: no draws, no statistics of other rows, and no wrapper, which finds layers by their paths.
    alone = not isinstance(model.parent, nn.Module) and not model.dropout and not model.experts.count
    if train and alone and not can_split() and own_axes(x.shape[0]):
        run, first = _layers(block, train, None), jnp.int32(0)
        blocks = model.variables["params"]["blocks"]
        return on_own_rows(lambda params, x, extras: run(params, x, extras, first), blocks, x, extras)
    return None


def _layers(block: nn.Module, train: bool, key: Array | None) -> Any:
    """A function that applies consecutive blocks: `(stacked parameters, x, (packed, numbers of the rows), first layer)`."""

    def run(params: Any, x: Array, extras: tuple[Any, Array], first: Array) -> Array:
        packed, rows = extras

        def layer(x: Array, one: tuple[Any, Array]) -> tuple[Array, None]:
            own = None if key is None else jax.random.fold_in(jax.random.fold_in(key, one[1]), rows[0])
            rngs = {} if own is None else {"dropout": own}
            apply: Any = block.apply
            return apply({"params": one[0]}, x, None, 0, train, packed, rngs=rngs)[0], None

        return jax.lax.scan(layer, x, (params, first + jnp.arange(jax.tree.leaves(params)[0].shape[0])))[0]

    return run
