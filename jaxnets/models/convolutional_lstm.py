"""The convolutional LSTM and its encoder-forecaster (Shi et al. 2015, "Convolutional LSTM Network: A Machine Learning
Approach for Precipitation Nowcasting").

Shapes: `B` batch, `T` frames seen, `K` frames foretold, `H` height, `W` width, `C` channels, `F` features, `P` patch.
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

    With `i, f, g, o` the four blocks of features of `W_x * X + W_h * H + b`, and peepholes `w`, one weight for each place:
    `i += w_i C`, `f += w_f C`, `C' = sigmoid(f) C + sigmoid(i) tanh(g)`, `o += w_o C'`, `H' = sigmoid(o) tanh(C')`.
    """

    features: int
    """Feature maps of the state."""
    kernel: int
    """Height and width of both kernels, odd; what moves faster than half of it in a step is out of reach."""
    peephole: bool
    """Whether the gates see the cell."""

    @nn.compact
    def __call__(self, x: Array | None, state: State, *, steps: int) -> tuple[Array, State]:
        """The states after each of `steps` inputs `[B, T, H, W, F]`, and the last state with its cell.

        `x` is `[B, T, H, W, C]`, or None for a layer without input, which goes on by itself from `state`.
        """
        h, c = state
        B, H, W, F = h.shape
        window = (self.kernel, self.kernel)
        recurrent = self.param("recurrent", nn.initializers.lecun_normal(), (*window, F, 4 * F)).astype(h.dtype)
        if x is None:
            bias = self.param("bias", _open_forget_gate, (4 * F,)).astype(h.dtype)
            fed = jnp.broadcast_to(bias, (steps, 1, 1, 1, 4 * F))
        else:
            # The inputs' share of the gates needs no state: one convolution over all frames, before the scan.
            frames = x.reshape(B * steps, H, W, -1)
            conv = Conv(4 * F, window, bias_init=_open_forget_gate, name="input")
            fed = conv(frames).reshape(B, steps, H, W, 4 * F).swapaxes(0, 1)
        names = ("peephole_input", "peephole_forget", "peephole_output") if self.peephole else ()
        peepholes = [self.param(name, nn.initializers.zeros, (H, W, F)).astype(c.dtype)[None] for name in names]

        def walk(state: State, fed: Array) -> tuple[State, Array]:
            h, c = state  # the cell in 32 bits or more: what it gains in a step may be too little for 16 to tell
            seen = conv_general_dilated(h, recurrent, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            i, f, g, o = jnp.split((fed + seen).astype(c.dtype), 4, axis=-1)
            if peepholes:
                i, f = i + peepholes[0] * c, f + peepholes[1] * c
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            o = o + peepholes[2] * c if peepholes else o
            h = (nn.sigmoid(o) * jnp.tanh(c)).astype(h.dtype)
            return (h, c), h

        state, states = jax.lax.scan(walk, state, fed)
        return states.swapaxes(0, 1), state


class ConvLSTMForecaster(nn.Module):
    """Frames to the frames that follow: layers that read, and layers that start from their states and write.

    The forecaster's lowest layer has no input. The states of all its layers go through one 1x1 convolution (section 3.2).
    """

    features: tuple[int, ...] = (64, 32)
    """Feature maps of each layer, lowest first; encoder and forecaster have the same."""
    kernel: int = 3
    """Height and width of the kernels, in patches, odd."""
    patch: int = 4
    """Squares of so many pixels become the channels of one place (section 4.1); divides height and width."""
    ahead: int = 1
    """Frames to foretell."""
    peephole: bool = True
    """Whether the gates see the cell, through one weight for each place and feature."""

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
        """One number for each pixel of the frames that follow, `[B, K, H, W, C]`, from frames `[B, T, H, W, C]`."""
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
            reader = ConvLSTM(features, self.kernel, self.peephole, name=f"encoder_{layer}")
            cell = zero.astype(jnp.promote_types(x.dtype, jnp.float32))
            x, memory = reader(x, (zero, cell), steps=T)
            memories.append(memory)
        below, states = None, []
        for layer, (features, memory) in enumerate(zip(self.features, memories, strict=True)):
            writer = ConvLSTM(features, self.kernel, self.peephole, name=f"forecaster_{layer}")
            below, _ = writer(below, memory, steps=self.ahead)
            states.append(below)
        y = jnp.concatenate(states, axis=-1).reshape(B * self.ahead, H // P, W // P, -1)
        y = Conv(P * P * C, (1, 1), name="output")(y)
        return from_patches(y, P).reshape(B, self.ahead, H, W, C)


def _open_forget_gate(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Biases 0 but 1 for the forget gate, so that a fresh cell remembers (Jozefowicz et al. 2015)."""
    del key
    width = shape[0] // 4
    return jnp.zeros(shape, dtype).at[width : 2 * width].set(1)
