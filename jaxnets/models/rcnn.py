"""The recurrent convolutional network (Liang and Hu 2015, "Recurrent Convolutional Neural Network for Object Recognition").

Shapes: `B` batch, `H` height, `W` width, `C` channels, `F` features.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxnets.models.layers import Conv, Dense, check_layers
from jaxnets.models.norms import BatchNorm
from jaxnets.ops import max_pool


class RecurrentConvolution(nn.Module):
    """A convolution with recurrent connections within the layer, run for a few steps on a fixed input.

    `x(0) = g(w_f u)`, `x(t) = g(w_f u + w_r x(t - 1) + b)` with the input `u`, 3x3 kernels `w_f`, `w_r` shared by all
    steps, and `g` ReLU and then normalisation. Each step enlarges the receptive field by 2.
    """

    features: int
    """Feature maps."""
    steps: int
    """Times the recurrent kernel is applied."""
    norm: Literal["response", "batch"]
    """See `RCNN`."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """`[B, H, W, C]` to `[B, H, W, F]`."""
        feed_forward = _convolution(self.features, 3, name="feed_forward")(x)
        recurrent = _convolution(self.features, 3, use_bias=False, name="recurrent")
        state = _activate(self, feed_forward, "norm_0", train=train)
        for step in range(self.steps):
            state = _activate(self, feed_forward + recurrent(state), f"norm_{step + 1}", train=train)
        return state


class RCNN(nn.Module):
    """A convolution, stages of max pooling and two recurrent layers, global max pooling and a linear output.

    The paper's RCNN-96 is `RCNN()`, with 0.67 million parameters on CIFAR-10. The paper's pools overlap (3x3,
    stride 2); these are 2x2.
    """

    features: int = 96
    """Feature maps of every layer."""
    stages: int = 2
    """Max pools, each followed by two recurrent layers."""
    steps: int = 3
    """Recurrent steps in each layer; 0 makes them ordinary convolutions."""
    norm: Literal["response", "batch"] = "response"
    """response: local response normalisation as in the paper; batch: batch normalisation, one for each step."""
    dropout: float = 0.0
    """Probability of dropping a unit before every recurrent layer but the first while training, in [0, 1)."""
    outputs: int | None = None
    """Output units; None: the number of classes in the data."""

    def __post_init__(self) -> None:
        check_layers(self)
        for name, least in (("features", 1), ("stages", 1), ("steps", 0)):
            if isinstance(getattr(self, name), int) and getattr(self, name) < least:
                raise ValueError(f"RCNN.{name} is at least {least}, got {getattr(self, name)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, outputs]` of images `[B, H, W, C]`; H and W at least `2 ** stages`."""
        least = 2**self.stages
        if x.ndim != 4 or min(x.shape[1:3]) < least:
            raise ValueError(
                f"RCNN with {self.stages} stages needs images [batch, height, width, channels] of at least "
                f"{least}x{least} pixels, got {tuple(x.shape)}; use fewer stages or larger images"
            )
        x = _activate(self, _convolution(self.features, 5, name="stem")(x), "stem_norm", train=train)
        for layer in range(2 * self.stages):
            x = max_pool(x) if layer % 2 == 0 else x
            if layer:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = RecurrentConvolution(self.features, self.steps, self.norm, name=f"layer_{layer}")(x, train=train)
        return Dense(self.outputs or 1, name="output")(x.max(axis=(1, 2)))


def _convolution(features: int, window: int, *, name: str, use_bias: bool = True) -> nn.Conv:
    return Conv(
        features,
        (window, window),
        use_bias=use_bias,
        kernel_init=nn.initializers.he_normal(),
        name=name,
    )


def _activate(module: RCNN | RecurrentConvolution, x: Array, name: str, *, train: bool) -> Array:
    """ReLU and normalisation in the order each was published in; called inside a module's compact method."""
    if module.norm == "batch":
        return nn.relu(BatchNorm(use_running_average=not train, momentum=0.9, name=name)(x))
    return response_norm(nn.relu(x))


def response_norm(x: Array, *, alpha: float = 0.001, beta: float = 0.75) -> Array:
    """Local response normalisation (Krizhevsky et al. 2012), with the constants of Liang and Hu.

    `x_k / (1 + alpha / N * sum_j x_j^2)^beta`, the sum over the `N = F / 8 + 1` feature maps around map `k`
    (one more for an even `N`, so that `k` is the middle one).

    Args:
        x: `[B, H, W, F]`.
        alpha: strength; the paper's value.
        beta: power; the paper's value.
    """
    features = x.shape[-1]
    size = features // 8 + 1
    # One product with a band matrix of ones is faster than a window sum over the last dim.
    index = jnp.arange(features)
    band = (jnp.abs(index[:, None] - index[None, :]) <= size // 2).astype(x.dtype)
    return x / (1 + alpha / size * (jnp.square(x) @ band)) ** beta
