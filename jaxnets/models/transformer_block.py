"""A block of the transformers of `transformer.py`: attention, attention to a source if there is one, and the MLP.

Shapes: `B` batch, `T` positions, `N` positions that are attended to, `S` source positions, `D` width, `H` heads, `K` numbers a
head.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.models.activations import feed_forward
from jaxnets.models.layers import Dense
from jaxnets.models.norms import LayerNorm
from jaxnets.ops.attend import Kind, attend
from jaxnets.ops.attention_blocks import Pairs
from jaxnets.ops.positions import alibi_slopes, rotate

EPSILON = 1e-5  # added to a LayerNorm's variance
KeysValues = tuple[Array, Array]  # each [B, N, H, K]


class Block(nn.Module):
    """Attention, attention to the source if there is one, and the MLP. Fields as in the models."""

    width: int
    heads: int
    mlp_dim: int
    positions: str
    norm_place: str
    activation: str
    dropout: float
    crossing: bool
    kind: Kind

    def setup(self) -> None:
        """Make the layers."""
        self.attention, self.attention_norm = Attention(self.width, self.heads, self.positions), LayerNorm(EPSILON)
        if self.crossing:
            self.cross, self.cross_norm = Attention(self.width, self.heads, "elsewhere"), LayerNorm(EPSILON)
        self.up, self.down, self.mlp_norm = dense(self.mlp_dim), dense(self.width), LayerNorm(EPSILON)
        self.gate = dense(self.mlp_dim)  # has no parameters unless it is called
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self, x: Array, pairs: Pairs, memory: KeysValues | None, across: Pairs | None,
        stored: KeysValues | None, start: Array | int, train: bool,
    ) -> Any:  # fmt: skip
        """`[B, T, D]` to the same; with `stored`, also the stored keys and values with this call's written at `start`.

        `pairs` says which positions see which, and `across` which positions of the source, where there is one.
        """
        kind: Kind = self.kind if stored is None else "plain"

        def add(x: Array, norm: Any, branch: Any) -> Array:
            y = self.drop(branch(norm(x) if self.norm_place == "pre" else x), deterministic=not train)
            return x + y if self.norm_place == "pre" else norm(x + y)

        def attend_to_itself(y: Array) -> Array:
            nonlocal stored
            current = self.attention.keys_values(y, start)
            if stored is not None:
                write = jax.lax.dynamic_update_slice_in_dim
                current = stored = jax.tree.map(lambda a, b: write(a, b.astype(a.dtype), start, 1), stored, current)
            return self.attention(y, current, pairs, start, kind)

        x = add(x, self.attention_norm, attend_to_itself)
        if memory is not None and across is not None:
            x = add(x, self.cross_norm, lambda y: self.cross(y, memory, across, start, kind))
        x = add(x, self.mlp_norm, lambda y: self.down(feed_forward(self.activation, self.up(y), lambda: self.gate(y))))
        return x if stored is None else (x, stored)

    def memory(self, x: Array) -> KeysValues:
        """Keys and values of the encoded source `[B, S, D]`, computed once per source."""
        return self.cross.keys_values(x, 0)


class Attention(nn.Module):
    """Multi-head scaled dot-product attention."""

    width: int
    heads: int
    positions: str

    def setup(self) -> None:
        """Make the four linear maps."""
        self.query, self.key, self.value, self.merge = (dense(self.width) for _ in range(4))

    def keys_values(self, x: Array, start: Array | int) -> KeysValues:
        """Keys and values of `[B, N, D]`, whose first position is `start`."""
        k, v = (layer(x).reshape(*x.shape[:2], self.heads, -1) for layer in (self.key, self.value))
        return (rotate(k, start + jnp.arange(k.shape[1])) if self.positions == "rotary" else k), v

    def __call__(self, x: Array, keys_values: KeysValues, pairs: Pairs, start: Array | int, kind: Kind) -> Array:
        """`[B, T, D]`, from position `start` on, to the same; `pairs` says which of them attend to which keys."""
        q, (k, v) = self.query(x).reshape(*x.shape[:2], self.heads, -1), keys_values
        q = rotate(q, start + jnp.arange(x.shape[1])) if self.positions == "rotary" else q
        if self.positions == "alibi":
            pairs = dataclasses.replace(pairs, slopes=alibi_slopes(self.heads))
        y = attend(q, k.astype(q.dtype), v.astype(q.dtype), pairs, kind=kind)
        return self.merge(y.reshape(x.shape))


def dense(width: int) -> nn.Dense:
    """A dense layer with the initialisation of the paper's code."""
    return Dense(width, kernel_init=nn.initializers.xavier_uniform())
