"""Layers and checks that three or more model families share."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.typecheck import check_choices
from jaxnets.core.types import SECOND_USE
from jaxnets.core.wide import wide
from jaxnets.ops import conv_general_dilated, dot_general, name_axes
from jaxnets.ops.bilinear import PLAIN
from jaxnets.ops.flash_attention import STORED
from jaxnets.ops.own_rows import on_own_rows

Remat = Literal["none", "blocks", "products", "products_with_weights", "products_on_host"]
"""Which results inside a block the backward pass recomputes, so that they need no memory in between:

- none: no results; all are stored.
- blocks: all; only the input of each block is stored.
- products: all but those of matrix products and convolutions.
- products_with_weights: all but those of products with a kernel. Attention's products, whose size grows with the square of the
  length, and those of experts are computed again as well. Of flash attention, both kinds of products store the output, which
  is as large as its queries, and compute the scores again.
- products_on_host: as products_with_weights, and the stored results are kept in the memory of the host. On the CPU, which has
  one memory, it is the same.
"""


class Dense(nn.Dense):
    """Flax's dense layer with the product and gradients of `jaxnets.ops.dense`."""

    dot_general: Any = dot_general


class Conv(nn.Conv):
    """Flax's convolution with the product and gradients of `jaxnets.ops.convolution`."""

    conv_general_dilated: Any = conv_general_dilated


class Embed(nn.Embed):
    """Flax's embedding, whose table is gathered before rows are taken from it.

    Otherwise, if a mesh splits the table, each device would look up its own rows for the tokens of all devices, and the
    gradient would gather the activations of the whole batch.
    """

    def __call__(self, inputs: Array) -> Array:
        """Rows `[..., features]` of the table for tokens `[...]` of integers."""
        if self.num_embeddings == 1:
            return super().__call__(inputs)
        table = name_axes(self.embedding, "vocab", "embed")
        return on_own_rows(_look_up, table, inputs, each=True)

    def attend(self, query: Array) -> Array:
        """The products `[..., num_embeddings]` of `[..., features]` with the rows, as the output layer that shares the table.

        The collection `second_use` may hold the table for this use, so that it has a separate gradient.
        """
        table = self.get_variable(SECOND_USE, "embedding", self.embedding)
        same_dtype: Any = self.promote_dtype
        query, table = same_dtype(query, table, dtype=self.dtype)
        return jnp.dot(query, table.T)


def _look_up(table: Array, tokens: Array, _: Any) -> Array:
    return jnp.take(table, tokens, axis=0)


def add_positions(x: Array, table: Array, places: Array | int) -> Array:
    """Embeddings with learned positions.

    Args:
        x: `[B, T, D]`.
        table: the position embeddings `[most positions, D]`.
        places: the position of the first token of every sequence, or that of each token, `[B, T]`.

    Returns:
        `[B, T, D]` in the dtype of `x`.
    """
    if isinstance(places, Array) and places.ndim:
        return x + on_own_rows(_look_up, table, places, each=True).astype(x.dtype)
    rows = jax.lax.dynamic_slice_in_dim(table, places, x.shape[1])[None]
    # In float32 outside, so that the gradients of devices and micro-batches are summed in it.
    return on_own_rows(lambda rows, x, _: x + rows.astype(x.dtype), wide(rows), x)


def rematerialised(block: type[nn.Module], remat: Remat, *, static: tuple[int, ...] = ()) -> Any:
    """The class of a block whose backward pass recomputes the results chosen by `remat` (Chen et al. 2016); same parameters.

    Args:
        block: its `__call__` takes positional arguments.
        remat: see `Remat`.
        static: numbers of the arguments that are no arrays (`train`), where `self` is 0.
    """
    return block if remat == "none" else nn.remat(block, policy=KEPT[remat], static_argnums=static)


def _is_product(primitive: Any, *shapes: Any, **options: Any) -> bool:
    """Whether an operation is a matrix product or a convolution: `dots_saveable`, and the products of `jaxnets.ops`."""
    if primitive.name == "name":
        return options["name"] == STORED
    return primitive.name in PLAIN or jax.checkpoint_policies.dots_saveable(primitive, *shapes, **options)


def _has_weights(primitive: Any, *shapes: Any, **options: Any) -> bool:
    """Whether it is one without batch dims: a product of two activations has some, one with a kernel has none."""
    if primitive.name == "dot_general":
        return jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *shapes, **options)
    return _is_product(primitive, *shapes, **options)


def _on_host(primitive: Any, *shapes: Any, **options: Any) -> Any:
    """The products of `_has_weights`, where plain ones are moved to the host (the CPU's own products stay)."""
    if primitive.name == "dot_general":
        move = jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host")
        return move(primitive, *shapes, **options)
    if primitive.name == "name":
        move = jax.checkpoint_policies.save_and_offload_only_these_names
        places = {"offload_src": "device", "offload_dst": "pinned_host"}
        chosen = move(names_which_can_be_saved=[], names_which_can_be_offloaded=[STORED], **places)
        return chosen(primitive, *shapes, **options)
    return _has_weights(primitive, *shapes, **options)


# The policy for stored results, by the name in `Remat`.
KEPT = {
    "blocks": jax.checkpoint_policies.nothing_saveable,
    "products": _is_product,
    "products_with_weights": _has_weights,
    "products_on_host": _on_host,
}

SIZES = (
    "widths", "features", "dense", "convolutions", "inputs", "outputs", "width", "hidden", "mlp_dim", "code", "latent",
    "codes", "layers", "decoder_layers", "heads", "head_dim", "patch", "length", "vocab_size", "source_vocab_size",
    "embedding", "pipeline_rounds",
)  # fmt: skip


def check_layers(model: nn.Module, *, filled: str = "") -> None:
    """Raise `ValueError` for a size below 1, a dropout rate outside [0, 1) or an unknown choice.

    Args:
        model: a module; missing fields and fields that are None are not checked.
        filled: name of a field that must have at least one size.
    """
    kind = type(model).__name__
    check_choices(model)
    for name in SIZES:
        value = getattr(model, name, None)
        for size in value if isinstance(value, tuple | list) else (value,):
            if isinstance(size, int) and size < 1:
                raise ValueError(f"{kind}.{name} is at least 1, got {value}")
    for name in ("dropout", "input_dropout", "stochastic_depth"):
        rate = getattr(model, name, 0.0)
        if isinstance(rate, int | float) and not 0 <= rate < 1:
            raise ValueError(f"{kind}.{name} is a probability in [0, 1), got {rate}")
    if filled and not getattr(model, filled):
        raise ValueError(f"{kind}.{filled} has at least one size, got ()")


def most_positions(model: Any) -> int | None:
    """Maximum tokens per call: the `length` of the model with learned positions; None (no limit) with computed positions.

    Rotary, sinusoidal and ALiBi positions can be computed for any length. Quality beyond the training length may be worse.
    """
    computed = getattr(model, "positions", "learned") != "learned"
    return None if computed else getattr(model, "length", None)


def check_shape(model: nn.Module) -> None:
    """Raise `ValueError` if the `shape` of a generating model is empty."""
    if not getattr(model, "shape", ()):
        kind = type(model).__name__
        raise ValueError(f"{kind}.shape is empty; set it to the shape of one example (a task sets it from its data)")
