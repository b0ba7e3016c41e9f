"""Recurrent networks: the simple cell, LSTM and GRU, stacked and in both directions.

Shapes: `B` batch, `T` time, `N` input features, `F` units, `G` gates, `C` outputs. Arrays are batch-major `[B, T, ...]`
outside a layer and time-major `[T, B, ...]` inside, where `lax.scan` walks along time.

What the inputs contribute to the gates does not depend on the state. It is one matrix product over all steps before the scan;
only the product with the state stays inside. On the CPU that product over all steps leaves the cache where a batch has many
sequences, and one product in each step is faster (`projects_inside`).
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.models.layers import Dense, check_layers
from jaxnets.ops import dot_general
from jaxnets.ops.beyond_promise import compiled_for

State = tuple[Array, ...]
# How many blocks of F columns each cell's kernels have.
GATES = {"simple": 1, "lstm": 4, "gru": 3}


# Input features per sequence of a batch up to which the CPU projects the inputs faster inside the scan: 1.2 times as fast at 4
# features a sequence (an LSTM of 256 units over 64 sequences), equal at 8, slower at 16 by half.
INSIDE_PAYS = 4


def projects_inside(batch: int, features: int) -> bool:
    """Whether the product of inputs and kernel is done step by step, on the platform that is compiled for."""
    return compiled_for() == "cpu" and features <= INSIDE_PAYS * batch


def simple_cell(x: Array, state: State, kernel: Array) -> State:
    """Elman's cell (1990): `h' = tanh(W x + U h + b)`; `x` is `W x + b`, `[B, F]`."""
    (h,) = state
    return (jnp.tanh(x + h.astype(kernel.dtype) @ kernel),)


def lstm_cell(x: Array, state: State, kernel: Array) -> State:
    """Long short-term memory (Hochreiter and Schmidhuber 1997) with forget gate (Gers et al. 2000).

    With `i, f, g, o` the four blocks of `W x + U h + b` (`x` is `W x + b`, `[B, 4F]`):
    `c' = sigmoid(f) c + sigmoid(i) tanh(g)` and `h' = sigmoid(o) tanh(c')`.
    """
    h, c = state
    i, f, g, o = jnp.split(x + h.astype(kernel.dtype) @ kernel, 4, axis=-1)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


def gru_cell(x: Array, state: State, kernel: Array, bias: Array) -> State:
    """Gated recurrent unit (Cho et al. 2014), resetting after the product with the state, as cuDNN and PyTorch do.

    With `r, z, n` the blocks of `W x + b` (`x`, `[B, 3F]`) and of `U h`:
    `r = sigmoid(r_x + r_h)`, `z = sigmoid(z_x + z_h)`, `n = tanh(n_x + r (n_h + bias))`, `h' = (1 - z) n + z h`.
    Resetting before it, `U (r h)`, as the paper has it, would take a second product in every step.
    """
    (h,) = state
    x_gates, x_new = jnp.split(x, [2 * h.shape[-1]], axis=-1)
    h_gates, h_new = jnp.split(h.astype(kernel.dtype) @ kernel, [2 * h.shape[-1]], axis=-1)
    reset, keep = jnp.split(nn.sigmoid(x_gates + h_gates), 2, axis=-1)
    new = jnp.tanh(x_new + reset * (h_new + bias))
    return (new + keep * (h - new),)


class Projection(nn.Module):
    """Kernel `[N, F]` and bias `[F]` of a dense layer, named and drawn as by `Dense`, for a product that is done elsewhere."""

    features: int
    """Units F."""
    bias_init: Callable[..., Array]
    """Draws the bias."""

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Array, Array]:
        """The two parameters for `inputs` features N."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (inputs, self.features))
        return kernel, self.param("bias", self.bias_init, (self.features,))


class Recurrent(nn.Module):
    """One layer of cells, run along time in one direction."""

    cell: Literal["simple", "lstm", "gru"]
    """Which cell; see the functions above."""
    width: int
    """Units."""
    reverse: bool = False
    """Walk from the last step to the first."""

    @nn.compact
    def __call__(self, x: Array, lengths: Array | None = None, start: State | None = None) -> tuple[Array, State]:
        """What the cells say after every step `[B, T, F]` (0 at steps past `lengths`), and the state the walk ends with.

        The state is one array `[B, F]`, what they said last; LSTM keeps a second one. Both are float32 where `x` is bfloat16.
        `start` is the first state, None for zeros.
        """
        B, T, N = x.shape
        gates = GATES[self.cell]
        bias_init = _open_forget_gate if self.cell == "lstm" else nn.initializers.zeros
        weights = Projection(gates * self.width, bias_init, name="input")(N)
        x, input_kernel, input_bias = nn.dtypes.promote_dtype(x, *weights)
        inside = projects_inside(B, N)

        def project(x: Array) -> Array:
            return dot_general(x, input_kernel, (((x.ndim - 1,), (0,)), ((), ()))) + input_bias.reshape(
                *(1,) * (x.ndim - 1), -1
            )

        x = x if inside else project(x)
        kernel = self.param("recurrent", _orthogonal_blocks, (self.width, gates * self.width)).astype(x.dtype)
        step: Callable[[Array, State, Array], State] = simple_cell if self.cell == "simple" else lstm_cell
        if self.cell == "gru":
            bias = self.param("candidate_bias", nn.initializers.zeros, (self.width,)).astype(x.dtype)
            step = functools.partial(gru_cell, bias=bias[None])
        # What a long memory gains in a step is too little for 16 bits to tell: the state and its gates have 32 or more.
        exact = jnp.promote_types(x.dtype, jnp.float32)
        state = tuple(a.astype(exact) for a in start or empty_state(self.cell, B, self.width))

        def walk(state: State, inputs: tuple[Array, Array | None]) -> tuple[State, Array]:
            now, here = inputs
            new = step((project(now) if inside else now).astype(exact), state, kernel)
            if here is not None:
                new = tuple(jnp.where(here, after, before) for after, before in zip(new, state, strict=True))
            said = new[0].astype(x.dtype)
            return new, said if here is None else jnp.where(here, said, 0)

        here = None if lengths is None else (jnp.arange(T)[:, None] < lengths[None, :])[..., None]
        final, states = jax.lax.scan(walk, state, (x.swapaxes(0, 1), here), reverse=self.reverse)
        return states.swapaxes(0, 1), final


def empty_state(cell: str, batch: int, width: int) -> State:
    """The zeros that a walk starts from."""
    return (jnp.zeros((batch, width)),) * (2 if cell == "lstm" else 1)


class RNN(nn.Module):
    """Recurrent layers and a linear readout, of the last state or of the state at every step."""

    cell: Literal["simple", "lstm", "gru"] = "gru"
    """simple: tanh of a weighted sum (Elman 1990); lstm: Hochreiter and Schmidhuber 1997; gru: Cho et al. 2014."""
    widths: tuple[int, ...] = (128,)
    """Units of each layer; layers are stacked, each reads the states of the one below."""
    bidirectional: bool = False
    """A second set of cells in every layer reads from the end (Schuster and Paliwal 1997); states are concatenated."""
    answer: Literal["last", "every"] = "last"
    """last: one answer from the state the walk ends with, `[B, C]`; every: one at each step, `[B, T, C]`."""
    dropout: float = 0.0
    """Probability of dropping a state on its way up, never along time (Zaremba et al. 2014), in [0, 1)."""
    outputs: int | None = None
    """Output units; None takes as many as the task needs (classes, tokens, or 1 for regression)."""
    vocab_size: int | None = None
    """Tokens there are, where the inputs are tokens `[B, T]`; None takes as many as the data have."""
    embedding: int = 32
    """Numbers that stand for a token, learned; nothing where the inputs are numbers already."""
    padding: int | None = None
    """The token that fills up texts at their end, which changes no state; None takes the data's, or none."""

    def __post_init__(self) -> None:
        check_layers(self, filled="widths")
        super().__post_init__()

    @property
    def length(self) -> None:
        """Texts may have any number of tokens."""

    def empty_cache(self, batch: int, length: int) -> tuple[State, ...]:
        """The states of all layers before a text; as large for any `length`."""
        if self.bidirectional or self.answer == "last":
            raise ValueError(
                f"RNN goes on with a text only with answer='every' and bidirectional=False, got {self.answer!r} and "
                f"{self.bidirectional}"
            )
        return tuple(empty_state(self.cell, batch, width) for width in self.widths)

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        train: bool = False,
        lengths: Array | None = None,
        cache: tuple[State, ...] | None = None,
    ) -> Any:
        """Outputs `[B, C]` or `[B, T, C]` (see `answer`) of sequences `[B, T, N]`, or of tokens `[B, T]`.

        Args:
            x: sequences of numbers, or integers below `vocab_size`, padded at the end to a common length where they differ.
            train: switches dropout on.
            lengths: `[B]` integers, the true lengths; what lies behind changes no state. None takes all as whole.
            cache: the states that what came before left (see `empty_cache`); if given, the new ones are returned as well.
        """
        if x.ndim == 2 and self.vocab_size is not None and jnp.issubdtype(x.dtype, jnp.integer):
            if lengths is None and self.padding is not None:
                # Up to the last token that is none.
                lengths = ((x != self.padding) * (1 + jnp.arange(x.shape[1]))[None, :]).max(axis=1)
            x = nn.Embed(self.vocab_size, self.embedding, name="embedding")(x)
        if x.ndim != 3:
            raise ValueError(f"RNN needs sequences [batch, time, features], got {tuple(x.shape)}; add the missing dim")
        last, states = x, []
        for index, width in enumerate(self.widths):
            layer = functools.partial(Recurrent, self.cell, width)
            x_forward, state = layer(name=f"layer_{index}")(x, lengths, cache[index] if cache else None)
            states.append(state)
            if self.bidirectional:
                x_back, state_back = layer(reverse=True, name=f"layer_{index}_reverse")(x, lengths)
                x, last = jnp.concatenate([x_forward, x_back], -1), jnp.concatenate([state[0], state_back[0]], -1)
            else:
                x, last = x_forward, state[0]
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.answer == "last":
            x = nn.Dropout(self.dropout, deterministic=not train)(last.astype(x.dtype))
        y = Dense(self.outputs or self.vocab_size or 1, name="output")(x)
        return y if cache is None else (y, tuple(states))


def _orthogonal_blocks(key: Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> Array:
    """One orthogonal matrix for each gate (Saxe et al. 2014): at first the state neither grows nor fades."""
    width, columns = shape
    keys = jax.random.split(key, columns // width)
    init = nn.initializers.orthogonal()
    return jnp.concatenate([init(k, (width, width), dtype) for k in keys], axis=-1)


def _open_forget_gate(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Biases 0 but 1 for the forget gate, so that a fresh cell remembers (Gers et al. 2000, Jozefowicz et al. 2015)."""
    del key
    width = shape[0] // 4
    return jnp.zeros(shape, dtype).at[width : 2 * width].set(1)
