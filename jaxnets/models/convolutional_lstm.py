"""The convolutional LSTM and its encoder-forecaster (Shi et al. 2015, "Convolutional LSTM Network: A Machine Learning
Approach for Precipitation Nowcasting").

Shapes: `B` batch, `T` input frames, `K` predicted frames, `H` height, `W` width, `C` channels, `F` features, `P` patch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.models.layers import Conv, check_layers
from jaxnets.ops import conv_general_dilated
from jaxnets.ops.patches import from_patches, to_patches

State = tuple[Array, Array]


class ConvLSTM(nn.Module):
    """One layer of LSTM cells whose products with input and state are convolutions (equation 3 of the paper).

    `i, f, g, o` are the four blocks of features of `W_x * X + W_h * H + b`; peepholes `w` have one weight per position:
    `i += w_i C`, `f += w_f C`, `C' = sigmoid(f) C + sigmoid(i) tanh(g)`, `o += w_o C'`, `H' = sigmoid(o) tanh(C')`.
    """

    features: int
    """Feature maps of the state."""
    kernel: int
    """Height and width of both kernels, odd. A step covers motion of up to half the kernel."""
    peephole: bool
    """Whether the gates depend on the cell."""

    @nn.compact
    def __call__(self, x: Array | None, state: State, *, steps: int) -> tuple[Array, State]:
        """The hidden states after each of `steps` steps, `[B, T, H, W, F]`, and the final hidden state and cell.

        `x` is `[B, T, H, W, C]`, or None for a layer without input, which runs from `state` alone.
        """
        h, c = state
        B, H, W, F = h.shape
        window = (self.kernel, self.kernel)
        recurrent = self.param("recurrent", nn.initializers.lecun_normal(), (*window, F, 4 * F)).astype(h.dtype)
        if x is None:
            bias = self.param("bias", _open_forget_gate, (4 * F,)).astype(h.dtype)
            from_input = jnp.broadcast_to(bias, (steps, 1, 1, 1, 4 * F))
        else:
            # The input term of the gates does not depend on the state: one convolution over all frames before the scan.
            frames = x.reshape(B * steps, H, W, -1)
            conv = Conv(4 * F, window, bias_init=_open_forget_gate, name="input")
            from_input = conv(frames).reshape(B, steps, H, W, 4 * F).swapaxes(0, 1)
        names = ("peephole_input", "peephole_forget", "peephole_output") if self.peephole else ()
        peepholes = [self.param(name, nn.initializers.zeros, (H, W, F)).astype(c.dtype)[None] for name in names]

        def step(state: State, from_input: Array) -> tuple[State, Array]:
            h, c = state  # the cell has at least 32 bits: 16 would round small updates away
            from_state = conv_general_dilated(h, recurrent, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            i, f, g, o = jnp.split((from_input + from_state).astype(c.dtype), 4, axis=-1)
            if peepholes:
                i, f = i + peepholes[0] * c, f + peepholes[1] * c
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            o = o + peepholes[2] * c if peepholes else o
            h = (nn.sigmoid(o) * jnp.tanh(c)).astype(h.dtype)
            return (h, c), h

        state, states = jax.lax.scan(step, state, from_input)
        return states.swapaxes(0, 1), state


class ConvLSTMForecaster(nn.Module):
    """Predict the next frames: an encoder, and a forecaster that starts from the encoder's final states.

    The forecaster's lowest layer has no input. The states of all its layers go through one 1x1 convolution (section 3.2).
    """

    features: tuple[int, ...] = (64, 32)
    """Feature maps of each layer, lowest first; encoder and forecaster have the same."""
    kernel: int = 3
    """Height and width of the kernels, in patches, odd."""
    patch: int = 4
    """Side of the square patches whose pixels become channels of one position (section 4.1); divides height and width."""
    ahead: int = 1
    """Frames to predict."""
    peephole: bool = True
    """Whether the gates depend on the cell, by one weight for each position and feature."""

    def __post_init__(self) -> None:
        check_layers(self)
        for name in ("kernel", "patch", "ahead"):
            if isinstance(getattr(self, name), int) and getattr(self, name) < 1:
                raise ValueError(f"ConvLSTMForecaster.{name} is at least 1, got {getattr(self, name)}")
        if not self.features or (isinstance(self.kernel, int) and self.kernel % 2 == 0):
            raise ValueError(
                f"ConvLSTMForecaster has at least one layer and an odd kernel, got {self.features}, {self.kernel}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """One output per pixel and channel of the next frames, `[B, K, H, W, C]`, from frames `[B, T, H, W, C]`."""
        if x.ndim != 5 or any(size % self.patch for size in x.shape[2:4]):
            raise ValueError(
                f"ConvLSTMForecaster needs frames [batch, time, height, width, channels] whose height and width are "
                f"multiples of patch={self.patch}, got {tuple(x.shape)}; choose a patch that divides them"
            )
        B, T, H, W, C = x.shape
        P = self.patch
        x = to_patches(x, P)
        memories = []
        for layer, features in enumerate(self.features):
            zero = jnp.zeros((B, H // P, W // P, features), x.dtype)
            encoder = ConvLSTM(features, self.kernel, self.peephole, name=f"encoder_{layer}")
            cell = zero.astype(jnp.promote_types(x.dtype, jnp.float32))
            x, memory = encoder(x, (zero, cell), steps=T)
            memories.append(memory)
        below, states = None, []
        for layer, (features, memory) in enumerate(zip(self.features, memories, strict=True)):
            forecaster = ConvLSTM(features, self.kernel, self.peephole, name=f"forecaster_{layer}")
            below, _ = forecaster(below, memory, steps=self.ahead)
            states.append(below)
        y = jnp.concatenate(states, axis=-1).reshape(B * self.ahead, H // P, W // P, -1)
        y = Conv(P * P * C, (1, 1), name="output")(y)
        return from_patches(y, P).reshape(B, self.ahead, H, W, C)


def _open_forget_gate(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Biases of 1 for the forget gate and 0 elsewhere, so that a new cell keeps its content (Jozefowicz et al. 2015)."""
    del key
    width = shape[0] // 4
    return jnp.zeros(shape, dtype).at[width : 2 * width].set(1)
