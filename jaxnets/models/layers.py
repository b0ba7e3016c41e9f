"""Layers and checks that three or more model families share."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxnets.core.typecheck import check_choices
from jaxnets.ops import conv_general_dilated, dot_general, name_axes


class Dense(nn.Dense):
    """Flax's dense layer with the product and gradients of `jaxnets.ops.dense`."""

    dot_general: Any = dot_general


class Conv(nn.Conv):
    """Flax's convolution with the product and gradients of `jaxnets.ops.convolution`."""

    conv_general_dilated: Any = conv_general_dilated


class Embed(nn.Embed):
    """Flax's embedding, whose table is gathered before rows are taken from it.

    Where a mesh splits the table, each device otherwise looks up its own rows for the tokens of all devices, and the
    gradient gathers the activations of the whole batch.
    """

    def __call__(self, inputs: Array) -> Array:
        """Rows `[..., features]` of the table for tokens `[...]` of integers."""
        if self.num_embeddings == 1:
            return super().__call__(inputs)
        return jnp.take(name_axes(self.embedding, "vocab", "embed"), inputs, axis=0)


SIZES = (
    "widths", "features", "dense", "convolutions", "inputs", "outputs", "width", "hidden", "mlp_dim", "code", "latent",
    "codes", "layers", "decoder_layers", "heads", "head_dim", "patch", "length", "vocab_size", "source_vocab_size",
    "embedding",
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
    for name in ("dropout", "input_dropout"):
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
