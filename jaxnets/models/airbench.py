"""The network that learns CIFAR-10 in seconds (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU").

arXiv:2404.00498, its network for 94 %. The first convolution is not learned: it whitens the patches of the images.

Shapes: `B` batch, `H` height, `W` width, `C` channels.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.wide import wide
from jaxnets.models.activations import Activation, activated
from jaxnets.models.layers import Conv, Dense, check_layers
from jaxnets.models.norms import BatchNorm
from jaxnets.ops import conv_general_dilated, max_pool, name_axes

# The uniform distribution within 1 / sqrt(inputs of a unit), which is that of PyTorch's layers.
UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class AirBench(nn.Module):
    """A whitening convolution, blocks of two convolutions with 2x2 max pooling, a maximum over all pixels, a linear layer."""

    widths: tuple[int, ...] = (64, 256, 256)
    """Channels of each block; each halves the image."""
    patch: int = 2
    """Height and width of the patches that are whitened, in pixels."""
    logit_scale: float = 1 / 9
    """Factor of the last layer's outputs."""
    views: Literal["one", "mirrored"] = "mirrored"
    """The outputs in evaluation: those for the image, or the mean of those for it and for its mirror image, at twice the
    work."""
    activation: Activation = "gelu_exact"
    """The non-linearity: see `Activation` in `activations.py`."""
    outputs: int | None = None
    """Output units; None: the number of classes in the data."""

    def __post_init__(self) -> None:
        check_layers(self, filled="widths")
        if not self.logit_scale > 0:
            raise ValueError(f"AirBench.logit_scale is positive, got {self.logit_scale}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, outputs]` of images `[B, H, W, C]`; H and W are at least `2 ** blocks + patch - 1`."""
        least = 2 ** len(self.widths) + self.patch - 1
        if x.ndim != 4 or min(x.shape[1:3]) < least:
            raise ValueError(
                f"AirBench with {len(self.widths)} blocks halves images [batch, height, width, channels] as many times, which "
                f"needs at least {least}x{least} pixels, got {tuple(x.shape)}; use larger images, or fewer widths"
            )
        twice = self.views == "mirrored" and not train and not self.is_initializing()
        x = jnp.concatenate([x, x[:, :, ::-1]]) if twice else x
        x = activated(self.activation, Whitening(self.patch, name="whitening")(x, train=train), "slope")
        for index, width in enumerate(self.widths):
            x = AirBlock(width, self.activation, name=f"block_{index}")(x, train=train)
        # On 32x32 images this is the 3x3 max pool of the original.
        x = name_axes(max_pool(x, (x.shape[1], x.shape[2])).reshape(x.shape[0], -1), "batch", "embed")
        x = self.logit_scale * Dense(self.outputs or 1, use_bias=False, kernel_init=UNIFORM, name="output")(x)
        return (x[: len(x) // 2] + x[len(x) // 2 :]) / 2 if twice else x


class Whitening(nn.Module):
    """A convolution whose kernel is `whitening_kernel` of the first training batch, and a bias that is learned.

    The kernel is no parameter: the first step in training measures it, and it stays from then on. It is a part of the model's
    state (the collection `whitening`), so it is saved and placed with it. Before that it is the kernel of white noise.
    Local SGD does not support this model, because each replica would measure its own kernel.
    """

    patch: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """`[B, H, W, C]` to `[B, H - patch + 1, W - patch + 1, 2 * patch ** 2 * C]`."""
        inputs = self.patch**2 * x.shape[-1]
        shape = (self.patch, self.patch, x.shape[-1], 2 * inputs)
        kernel = self.variable("whitening", "kernel", lambda: _both_signs(jnp.eye(inputs)).reshape(shape))
        measured = self.variable("whitening", "measured", lambda: jnp.zeros((), jnp.int32))
        bias = self.param("bias", nn.initializers.zeros_init(), (2 * inputs,))
        if train and not self.is_initializing():
            # A branch, because the eigenvectors are needed once.
            kernel.value = jax.lax.cond(
                measured.value > 0, lambda _: kernel.value, lambda x: whitening_kernel(x, self.patch), x
            )
            measured.value = jnp.ones_like(measured.value)
        y = conv_general_dilated(
            x, kernel.value.astype(x.dtype), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + bias[None, None, None, :]


def whitening_kernel(images: Array, patch: int = 2, eps: float = 5e-4) -> Array:
    """The kernel of a convolution whose outputs for these images are uncorrelated, each with a mean square near 1.

    Its filters are the eigenvectors of the second moments of all patches (the means are not subtracted), each divided by the
    root of its eigenvalue plus `eps`; then the same with the other sign.

    Args:
        images: `[B, H, W, C]`, real numbers.
        patch: height and width of a patch, in pixels.
        eps: added to the eigenvalues, so that directions without variance are not blown up.

    Returns:
        `[patch, patch, C, 2 * patch ** 2 * C]`, float32; filters in falling order of their eigenvalues.
    """
    images = wide(jax.lax.stop_gradient(images))
    B, H, W, C = images.shape
    rows, columns = H - patch + 1, W - patch + 1
    shifted = [images[:, i : i + rows, j : j + columns] for i in range(patch) for j in range(patch)]
    patches = jnp.stack(shifted, axis=3).reshape(B * rows * columns, patch**2 * C)
    moments = jnp.matmul(patches.T, patches, precision="highest") / len(patches)
    values, vectors = jnp.linalg.eigh(moments)
    # Both signs of an eigenvector are right. This one does not depend on rounding, and so not on the number of devices.
    halves = 0.5 ** jnp.arange(len(values))
    vectors = jnp.where((halves[:, None] * vectors).sum(axis=0, keepdims=True) < 0, -vectors, vectors)
    return _both_signs((vectors / jnp.sqrt(values + eps)[None, :])[:, ::-1]).reshape(patch, patch, C, -1)


def _both_signs(filters: Array) -> Array:
    return jnp.concatenate([filters, -filters], axis=1)


class AirBlock(nn.Module):
    """Convolution, 2x2 max pooling, normalisation, activation; then the same without the pooling."""

    width: int
    activation: str = "gelu_exact"

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """`[B, H, W, C]` to `[B, H // 2, W // 2, width]`."""
        for index in (0, 1):
            x = Conv(
                self.width, (3, 3), padding=((1, 1), (1, 1)), use_bias=False, kernel_init=near_identity,
                name=f"conv_{index}",
            )(x)  # fmt: skip
            x = max_pool(x) if index == 0 else x
            x = BatchNorm(
                use_running_average=not train, momentum=0.6, epsilon=1e-12, use_scale=False, name=f"norm_{index}"
            )(x)
            x = activated(self.activation, x, f"slope_{index}")
        return x


def near_identity(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """A kernel `[height, width, inputs, outputs]` whose first outputs are the inputs; the other filters are random."""
    height, width, inputs, outputs = shape
    same = min(inputs, outputs)
    kernel = UNIFORM(key, shape, dtype)
    identity = jnp.zeros((height, width, inputs, same), dtype)
    identity = identity.at[height // 2, width // 2, :same].set(jnp.eye(same, dtype=dtype))
    return kernel.at[..., :same].set(identity)
