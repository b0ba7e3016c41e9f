"""CoAtNet: stages of convolution followed by stages of relative attention (Dai et al. 2021).

The paper's CoAtNet-0 is close to `layout=("convolution", "convolution", "attention", "attention")`, `stem=64`,
`widths=(96, 192, 384, 768)`, `blocks=(2, 3, 5, 2)`, `strides=(2, 2, 2, 2)`, `heads=12`. Two things differ: all stages have the
same number of heads, and pooling is average pooling.

Shapes: `B` batch, `H` height, `W` width, `C` channels, `T` positions of an image, `D` width of a stage.
"""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.models.activations import Activation, activated
from jaxnets.models.layers import Conv, Dense, Remat, check_layers, rematerialised
from jaxnets.models.norms import BatchNorm, LayerNorm
from jaxnets.ops import average_pool, dot_product_attention


class CoAtNet(nn.Module):
    """A stem that halves the image, stages of inverted bottlenecks, stages of relative attention, one linear layer."""

    stem: int = 16
    """Channels of the stem's two 3x3 convolutions."""
    layout: tuple[Literal["convolution", "attention"], ...] = ("convolution", "attention")
    """Kind of the blocks in each stage."""
    widths: tuple[int, ...] = (32, 64)
    """Channels of each stage."""
    blocks: tuple[int, ...] = (2, 3)
    """Blocks in each stage."""
    strides: tuple[int, ...] = (1, 2)
    """Stride of the first block of each stage: 2 halves the image, 1 keeps its size."""
    heads: int = 4
    """Attention heads; each has width / heads numbers."""
    expansion: int = 4
    """Channels inside a block, as a multiple of the stage's width."""
    squeeze: int = 4
    """Reduction ratio of squeeze-and-excitation in convolutional blocks (Hu et al. 2018); 0: none."""
    dropout: float = 0.0
    """Dropout rate after attention and after the MLP of an attention block while training, in [0, 1)."""
    stochastic_depth: float = 0.0
    """Probability of skipping the last block in training, in [0, 1); falls linearly to 0 for the first (Huang et al. 2016)."""
    activation: Activation = "gelu"
    """The non-linearity: see `Activation` in `activations.py`."""
    remat: Remat = "none"
    """Which results of a block the backward pass computes again, to save memory: see `Remat` in `layers.py`."""
    outputs: int | None = None
    """Output units; None: the number of classes in the data."""

    def __post_init__(self) -> None:
        check_layers(self)
        if len({len(self.layout), len(self.widths), len(self.blocks), len(self.strides)}) != 1 or not self.layout:
            raise ValueError(
                f"CoAtNet needs one layout, width, number of blocks and stride for each stage, got {self.layout}, "
                f"{self.widths}, {self.blocks} and {self.strides}"
            )
        if min(self.blocks) < 1 or not set(self.strides) <= {1, 2}:
            raise ValueError(f"CoAtNet needs blocks >= 1 and strides of 1 or 2, got {self.blocks} and {self.strides}")
        if min(self.stem, self.heads, self.expansion) < 1 or self.squeeze < 0:
            raise ValueError(
                f"CoAtNet needs stem, heads and expansion >= 1 and squeeze >= 0, got {self.stem}, {self.heads}, "
                f"{self.expansion} and {self.squeeze}"
            )
        for kind, width in zip(self.layout, self.widths, strict=True):
            if kind == "attention" and width % self.heads:
                raise ValueError(f"CoAtNet: the width {width} is not divisible by heads {self.heads}; change one")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, outputs]` of images `[B, H, W, C]`; H and W are even before each halving."""
        whole = 2 ** (1 + sum(stride == 2 for stride in self.strides))
        if x.ndim != 4 or x.shape[1] % whole or x.shape[2] % whole:
            raise ValueError(
                f"CoAtNet with strides {self.strides} needs images [batch, height, width, channels] whose sides are "
                f"multiples of {whole}, got {tuple(x.shape)}; use other strides or another size"
            )
        x = batch_norm(train, "stem_norm")(conv(self.stem, 3, 2, "stem_0")(x))
        x = activated(self.activation, x, "stem_slope")
        x = conv(self.stem, 3, 1, "stem_1")(x)
        bottleneck, attention = (rematerialised(kind, self.remat, static=(2,)) for kind in (Bottleneck, Attention))
        done = 0
        for stage, kind in enumerate(self.layout):
            for index in range(self.blocks[stage]):
                shared: dict[str, Any] = {
                    "width": self.widths[stage],
                    "stride": self.strides[stage] if index == 0 else 1,
                    "expansion": self.expansion,
                    "activation": self.activation,
                    "skipped": self.stochastic_depth * done / max(1, sum(self.blocks) - 1),
                    "name": f"stage_{stage}_block_{index}",
                }
                if kind == "convolution":
                    x = bottleneck(squeeze=self.squeeze, **shared)(x, train)
                else:
                    x = attention(heads=self.heads, dropout=self.dropout, **shared)(x, train)
                done += 1
        x = LayerNorm(name="final_norm")(x.mean(axis=(1, 2)))
        return Dense(self.outputs or 1, name="output")(x)


class Bottleneck(nn.Module):
    """Pre-norm MBConv (Sandler et al. 2018): 1x1 expansion, 3x3 depthwise, squeeze-and-excitation, 1x1 projection."""

    width: int
    stride: int
    expansion: int
    activation: str
    skipped: float
    squeeze: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`[B, H, W, C]` to `[B, H / stride, W / stride, width]`."""
        inner = self.expansion * self.width
        y = conv(inner, 1, 1, "up")(batch_norm(train, "norm")(x))
        y = activated(self.activation, batch_norm(train, "up_norm")(y), "up_slope")
        y = conv(inner, 3, self.stride, "depthwise", groups=inner)(y)
        y = activated(self.activation, batch_norm(train, "depthwise_norm")(y), "depthwise_slope")
        if self.squeeze:
            z = Dense(max(1, self.width // self.squeeze), name="squeeze")(y.mean(axis=(1, 2)))
            z = Dense(inner, name="excite")(activated(self.activation, z, "squeeze_slope"))
            y = y * nn.sigmoid(z)[:, None, None, :]
        y = Conv(self.width, (1, 1), name="down")(y)
        return shortcut(x, self.width, self.stride) + skip(self.skipped, train)(y)


class Attention(nn.Module):
    """Pre-norm attention with a relative position bias, then a pre-norm MLP, each with a residual connection."""

    width: int
    stride: int
    expansion: int
    activation: str
    skipped: float
    heads: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`[B, H, W, C]` to `[B, H / stride, W / stride, width]`."""
        drop, skipping = nn.Dropout(self.dropout, deterministic=not train), skip(self.skipped, train)
        y = average_pool(LayerNorm(name="attention_norm")(x), self.stride)
        B, H, W, C = y.shape
        y = y.reshape(B, H * W, C)
        q, k, v = (
            self.dense(self.width, name)(y).reshape(B, H * W, self.heads, -1) for name in ("query", "key", "value")
        )
        table = self.param("relative", nn.initializers.normal(0.02), (self.heads, (2 * H - 1) * (2 * W - 1)))
        bias = jnp.take(table, offsets(H, W), axis=1)[None].astype(q.dtype)
        y = dot_product_attention(q, k, v, bias=bias).reshape(B, H, W, self.width)
        x = shortcut(x, self.width, self.stride) + skipping(drop(self.dense(self.width, "merge")(y)))
        y = self.dense(self.expansion * self.width, "up")(LayerNorm(name="mlp_norm")(x))
        return x + skipping(drop(self.dense(self.width, "down")(activated(self.activation, y, "slope"))))

    def dense(self, width: int, name: str) -> nn.Dense:
        """A dense layer with Xavier initialisation."""
        return Dense(width, kernel_init=nn.initializers.xavier_uniform(), name=name)


def offsets(height: int, width: int) -> np.ndarray:
    """Index of the relative offset of each pair of positions, `[T, T]` in [0, (2H - 1)(2W - 1))."""
    rows, columns = (a.reshape(-1) for a in np.indices((height, width)))
    down, right = rows[None] - rows[:, None] + height - 1, columns[None] - columns[:, None] + width - 1
    return down * (2 * width - 1) + right


def skip(rate: float, train: bool) -> nn.Dropout:
    """Stochastic depth: one draw per example for a whole branch, divided by the probability that it is kept."""
    return nn.Dropout(rate, broadcast_dims=(1, 2, 3), deterministic=not train)


def shortcut(x: Array, width: int, stride: int) -> Array:
    """The residual shortcut: the input, average-pooled if the size changes and projected if the width changes."""
    x = average_pool(x, stride)
    return x if x.shape[-1] == width else Dense(width, name="shortcut")(x)


def conv(features: int, window: int, stride: int, name: str, *, groups: int = 1) -> nn.Conv:
    """A convolution padded by half its window, without a bias because a norm follows."""
    pad = window // 2
    return Conv(
        features, (window, window), strides=stride, padding=((pad, pad), (pad, pad)), use_bias=False,
        feature_group_count=groups, kernel_init=nn.initializers.he_normal(),
        name=name,
    )  # fmt: skip


def batch_norm(train: bool, name: str) -> Any:
    """Batch normalisation with momentum 0.9 for the running statistics."""
    return BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)
