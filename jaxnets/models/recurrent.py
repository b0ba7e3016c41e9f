"""Recurrent networks: the simple cell, LSTM and GRU, stacked and in both directions.

Shapes: `B` batch, `T` time, `N` input features, `F` units, `G` gates, `C` outputs. Arrays are batch-major `[B, T, ...]`
outside a layer and time-major `[T, B, ...]` inside, where `lax.scan` runs along time.

The input term of the gates does not depend on the state, so it is one matrix product over all steps before the scan. Only the
product with the state is inside the scan. On the CPU the product over all steps does not fit the cache if a batch has many
sequences; then one product per step is faster (`projects_inside`).
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.models.layers import Dense, Embed, check_layers
from jaxnets.ops import dot_general
from jaxnets.ops.beyond_promise import compiled_for

State = tuple[Array, ...]
# Number of blocks of F columns in the kernels of each cell.
GATES = {"simple": 1, "lstm": 4, "gru": 3}


# Largest ratio of input features to batch size for which the product with the inputs is faster inside the scan on the CPU.
# Measured on an LSTM of 256 units and 64 sequences: 1.2 times as fast at a ratio of 4, equal at 8, 1.5 times as slow at 16.
INSIDE_PAYS = 4


def projects_inside(batch: int, features: int) -> bool:
    """Whether the product of inputs and kernel is inside the scan, on the platform being compiled for."""
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
    """Gated recurrent unit (Cho et al. 2014), with the reset after the product with the state, as in cuDNN and PyTorch.

    With `r, z, n` the blocks of `W x + b` (`x`, `[B, 3F]`) and of `U h`:
    `r = sigmoid(r_x + r_h)`, `z = sigmoid(z_x + z_h)`, `n = tanh(n_x + r (n_h + bias))`, `h' = (1 - z) n + z h`.
    The paper resets before the product, `U (r h)`, which needs a second product in every step.
    """
    (h,) = state
    x_gates, x_new = jnp.split(x, [2 * h.shape[-1]], axis=-1)
    h_gates, h_new = jnp.split(h.astype(kernel.dtype) @ kernel, [2 * h.shape[-1]], axis=-1)
    reset, keep = jnp.split(nn.sigmoid(x_gates + h_gates), 2, axis=-1)
    new = jnp.tanh(x_new + reset * (h_new + bias))
    return (new + keep * (h - new),)


class Projection(nn.Module):
    """Kernel `[N, F]` and bias `[F]` with the names and initialisation of `Dense`; the caller computes the product."""

    features: int
    """Units F."""
    bias_init: Callable[..., Array]
    """Initialiser of the bias."""

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
    """Run from the last step to the first."""

    @nn.compact
    def __call__(self, x: Array, lengths: Array | None = None, start: State | None = None) -> tuple[Array, State]:
        """The outputs of the cells at every step, `[B, T, F]` (0 at steps past `lengths`), and the final state.

        The state is a tuple of arrays `[B, F]`: the last output and, for an LSTM, the cell. They are float32 if `x` is
        bfloat16. `start` is the initial state; None: zeros.
        """
        B, T, N = x.shape
        gates = GATES[self.cell]
        bias_init = _open_forget_gate if self.cell == "lstm" else nn.initializers.zeros
        weights = Projection(gates * self.width, bias_init, name="input")(N)
        x, input_kernel, input_bias = nn.dtypes.promote_dtype(x, *weights)
        inside = projects_inside(B, N)

        # Over all steps the plain product is faster: its gradient reads the scan's time-major order without a copy.
        product = dot_general if inside else jax.lax.dot_general

        def project(x: Array) -> Array:
            return product(x, input_kernel, (((x.ndim - 1,), (0,)), ((), ()))) + input_bias.reshape(
                *(1,) * (x.ndim - 1), -1
            )

        x = x if inside else project(x)
        kernel = self.param("recurrent", _orthogonal_blocks, (self.width, gates * self.width)).astype(x.dtype)
        step: Callable[[Array, State, Array], State] = simple_cell if self.cell == "simple" else lstm_cell
        if self.cell == "gru":
            bias = self.param("candidate_bias", nn.initializers.zeros, (self.width,)).astype(x.dtype)
            step = functools.partial(gru_cell, bias=bias[None])
        # 16 bits would round small updates away, so the state and its gates have at least 32.
        exact = jnp.promote_types(x.dtype, jnp.float32)
        state = tuple(a.astype(exact) for a in start or empty_state(self.cell, B, self.width))

        def advance(state: State, inputs: tuple[Array, Array | None]) -> tuple[State, Array]:
            x_t, valid = inputs
            new = step((project(x_t) if inside else x_t).astype(exact), state, kernel)
            if valid is not None:
                new = tuple(jnp.where(valid, after, before) for after, before in zip(new, state, strict=True))
            output = new[0].astype(x.dtype)
            return new, output if valid is None else jnp.where(valid, output, 0)

        valid = None if lengths is None else (jnp.arange(T)[:, None] < lengths[None, :])[..., None]
        final, states = jax.lax.scan(advance, state, (x.swapaxes(0, 1), valid), reverse=self.reverse)
        return states.swapaxes(0, 1), final


def empty_state(cell: str, batch: int, width: int) -> State:
    """The initial state: zeros."""
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
    """last: one output from the final state, `[B, C]`; every: one output per step, `[B, T, C]`."""
    dropout: float = 0.0
    """Dropout rate after each layer while training, never along time (Zaremba et al. 2014), in [0, 1)."""
    outputs: int | None = None
    """Output units; None: as many as the task needs (classes, tokens, or 1 for regression)."""
    vocab_size: int | None = None
    """Vocabulary size, if the inputs are tokens `[B, T]`; None: that of the data."""
    embedding: int = 32
    """Width of the token embedding; unused if the inputs are numbers."""
    padding: int | None = None
    """Padding token at the end of texts; it does not change the state. None: that of the data, if any."""

    def __post_init__(self) -> None:
        check_layers(self, filled="widths")
        super().__post_init__()

    @property
    def length(self) -> None:
        """None: a text may have any number of tokens."""

    def empty_cache(self, batch: int, length: int) -> tuple[State, ...]:
        """The initial states of all layers; their size does not depend on `length`."""
        if self.bidirectional or self.answer == "last":
            raise ValueError(
                f"RNN generates text only with answer='every' and bidirectional=False, got {self.answer!r} and "
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
            x: sequences of numbers, or integers below `vocab_size`, padded at the end to a common length.
            train: switches dropout on.
            lengths: `[B]` integers, the true lengths; later steps do not change the state. None: the full length.
            cache: states after the preceding text (see `empty_cache`); if given, the new states are returned too.
        """
        if x.ndim == 2 and self.vocab_size is not None and jnp.issubdtype(x.dtype, jnp.integer):
            if lengths is None and self.padding is not None:
                # Up to the last token that is not padding.
                lengths = ((x != self.padding) * (1 + jnp.arange(x.shape[1]))[None, :]).max(axis=1)
            x = Embed(self.vocab_size, self.embedding, name="embedding")(x)
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
    """One orthogonal matrix for each gate (Saxe et al. 2014), so that at first products keep the norm of the state."""
    width, columns = shape
    keys = jax.random.split(key, columns // width)
    init = nn.initializers.orthogonal()
    return jnp.concatenate([init(k, (width, width), dtype) for k in keys], axis=-1)


def _open_forget_gate(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Biases 1 for the forget gate, else 0, so that a new cell keeps its state (Gers et al. 2000, Jozefowicz et al. 2015)."""
    del key
    width = shape[0] // 4
    return jnp.zeros(shape, dtype).at[width : 2 * width].set(1)
