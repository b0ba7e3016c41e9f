"""Techniques that change the layers of any model: kernels, dropout, batch statistics, factors, scale of the output.

`Layers` has the settings, and `Layered` is a model with them. They are applied when the layers are called, so the code of a
model does not need to support them.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.core.typecheck import check_choices
from jaxnets.core.wide import wide
from jaxnets.models import dropouts
from jaxnets.models.dropouts import DropoutKind
from jaxnets.models.norms import BatchNorm
from jaxnets.models.wrapper import Wrapper, changed_fields
from jaxnets.ops import dot_general

# The second factor of a kernel, beside the first, which has the kernel's name.
RIGHT = "right_kernel"


@dataclasses.dataclass(frozen=True)
class Layers:
    """Changes of the layers of a model; by default none."""

    kernels: Literal["free", "standardized"] = "free"
    """standardized: the kernels of convolutions have mean 0 and variance 1 for each output channel (weight standardisation,
    Qiao et al. 2019). A normalisation must follow."""
    drop_connect: float = 0.0
    """Probability of dropping a weight of a dense layer or a convolution while training (Wan et al. 2013), in [0, 1)."""
    dropout: DropoutKind = "units"
    """What the model's dropout layers drop, at the rates that the model has."""
    ghost: int = 0
    """Number of examples that share batch statistics in training (ghost batch normalisation, Hoffer et al. 2017): a
    divisor of the batch; 0: all of the batch."""
    squeeze: int = 0
    """Reduction ratio of squeeze-and-excitation after each convolution with a window (Hu et al. 2018: 16); 0: none."""
    rank: int = 0
    """Dense layers and convolutions become products of two factors of this rank, if that has fewer weights; 0: no factors."""
    output_scale: float = 1.0
    """Factor alpha of the model's outputs, while the loss counts as divided by its square (Chizat et al. 2019): large values
    train lazily, as a linear model around the initial weights, small ones learn features."""
    at: str = ".*"
    """The layers to which `kernels`, `drop_connect`, `squeeze` and `rank` apply: a regular expression for their whole
    paths."""

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 <= self.drop_connect < 1:
            raise UsageError(f"layers.drop_connect is a probability in [0, 1), got {self.drop_connect}")
        for name in ("ghost", "squeeze", "rank"):
            if getattr(self, name) < 0:
                raise UsageError(f"layers.{name} is at least 1, or 0 for none; got {getattr(self, name)}")
        if not 0 < self.output_scale < math.inf:
            raise UsageError(f"layers.output_scale is positive, got {self.output_scale}")
        try:
            re.compile(self.at)
        except re.error as error:
            raise UsageError(
                f"layers.at is a regular expression for paths of layers, got {self.at!r}: {error}"
            ) from error


class Layered(Wrapper):
    """A model with changes in its layers: `Layered(ResNet9(), Layers(ghost=32))`.

    The parameters of the model keep their paths. With `rank` there is a second factor, `right_kernel`, beside a kernel; with
    `squeeze` there are four more beside it.
    """

    layers: Layers = Layers()
    """The changes."""

    def run(self, method: str, *inputs: Any, **options: Any) -> Any:
        """See `Wrapper`; outputs are scaled, of a tuple the first."""
        result = super().run(method, *inputs, **options)
        if method != "__call__" or self.layers.output_scale == 1:
            return result
        if isinstance(result, tuple):
            return _scaled(result[0], self.layers.output_scale), *result[1:]
        return _scaled(result, self.layers.output_scale)

    def interceptor(self, seen: list[str]) -> Callable[..., Any]:
        """Changes layers by their kind, and adds to `seen` the fields of `Layers` that applied to a layer."""
        own = self.layers

        def changed(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            layer = context.module
            if context.method_name != "__call__":
                return call(*args, **kwargs)
            if isinstance(layer, nn.Dropout) and own.dropout != "units" and layer.rate and not layer.broadcast_dims:
                seen.append("dropout")
                return _dropped(own.dropout, layer, call, args, kwargs)
            if isinstance(layer, BatchNorm) and own.ghost:
                seen.append("ghost")
                with changed_fields(layer, ghost=own.ghost):
                    return call(*args, **kwargs)
            dense, conv = isinstance(layer, nn.Dense), isinstance(layer, nn.Conv)
            path = "/".join(layer.path[len(self.path) :])
            if not (dense or conv or isinstance(layer, nn.DenseGeneral)) or not re.fullmatch(own.at, path):
                return call(*args, **kwargs)
            product: Callable[..., Any] = call
            if (own.kernels == "standardized" and conv) or own.drop_connect:
                seen.extend(["drop_connect"] + ["kernels"] * conv)
                fields = {"promote_dtype": _promoting(layer, own, conv)}
                product = _with_fields(layer, call, fields)
            x = args[0] if args else kwargs["inputs"]
            if own.rank and (dense or conv) and _is_smaller(layer, x, own.rank):
                seen.append("rank")
                y = _factored(layer, product, args, kwargs, own.rank)
            else:
                y = product(*args, **kwargs)
            if own.squeeze and conv and math.prod(layer.kernel_size) > 1:
                seen.append("squeeze")
                y = y * _excitation(layer, y, own.squeeze)
            return y

        return changed

    def check(self, seen: list[str]) -> None:
        """Raise `UsageError` if a technique applies to no layer of the model."""
        kind, needs = type(self.model).__name__, {
            "kernels": "convolution", "dropout": "dropout with a rate above 0", "drop_connect": "dense layer or convolution",
            "ghost": "batch normalisation", "squeeze": "convolution with a window", "rank": "layer that it makes smaller",
        }  # fmt: skip
        for name, needed in needs.items():
            value = getattr(self.layers, name)
            if value != getattr(Layers(), name) and name not in seen:
                where = "" if self.layers.at == ".*" else f" that matches layers.at {self.layers.at!r}"
                raise UsageError(f"layers.{name} is {value!r}, but {kind} has no {needed}{where}; leave it out")


def with_layers(model: nn.Module, layers: Layers) -> nn.Module:
    """The model with these changes; the model itself if there are none."""
    return model if layers == Layers() else Layered(model, layers)


def factorised(params: Any, like: Any) -> Any:
    """Parameters of a model as those of `Layered` with a rank: the best approximation of each kernel, from its SVD.

    A kernel `W = U S V` (convolutions: all but the output channels are rows) becomes `U sqrt(S)` and `sqrt(S) V`, cut to the
    rank. The Frobenius norm of the error is the root of the sum of the squared singular values that were cut off.

    Args:
        params: parameters of the model.
        like: parameters of the layered model, or their shapes.
    """
    if not isinstance(like, Mapping):
        return params
    made = {name: factorised(params[name], branch) for name, branch in like.items() if name in params}
    if RIGHT in like:
        right = like[RIGHT]
        stacked = right.shape[:-2]  # layers in `nn.scan`
        rows = params["kernel"].reshape(*stacked, -1, right.shape[-1])
        left, made[RIGHT] = _factors(rows, right.shape[-2])
        made["kernel"] = left.reshape(like["kernel"].shape)
    return made


def _factors(kernel: Array, rank: int) -> tuple[Array, Array]:
    """`[..., I, O]` to `[..., I, R]` and `[..., R, O]`."""
    u, s, v = jnp.linalg.svd(kernel, full_matrices=False)
    root = jnp.sqrt(s[..., :rank])
    return u[..., :rank] * root[..., None, :], root[..., :, None] * v[..., :rank, :]


def _with_fields(layer: nn.Module, call: Callable[..., Any], fields: dict[str, Any]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        with changed_fields(layer, **fields):
            return call(*args, **kwargs)

    return called


def _promoting(layer: Any, own: Layers, conv: bool) -> Callable[..., Any]:
    """The function by which a layer promotes its inputs and parameters, just before their product; here it changes the kernel
    first."""
    promote = layer.promote_dtype

    def promoted(x: Array, kernel: Array, *others: Any, **options: Any) -> Any:
        if own.kernels == "standardized" and conv:
            kernel = standardized(kernel)
        if own.drop_connect and layer.has_rng("dropout") and not layer.is_initializing():
            kernel = dropouts.connections(layer.make_rng("dropout"), kernel, own.drop_connect)
        return promote(x, kernel, *others, **options)

    return promoted


def standardized(kernel: Array) -> Array:
    """A kernel `[..., O]` with mean 0 and variance 1 for each output channel, in float32 (Qiao et al. 2019, eq. 4 to 7)."""
    exact = wide(kernel)
    axes = tuple(range(kernel.ndim - 1))
    centred = exact - exact.mean(axes, keepdims=True)
    return (centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + 1e-5)).astype(kernel.dtype)


def _dropped(kind: str, layer: Any, call: Any, args: Any, kwargs: Any) -> Array:
    """The call of a dropout layer, with another kind of dropout."""
    x, given, off = args[0], args[1:2] or (kwargs.get("deterministic"),), layer.deterministic
    if off or given[0]:
        return call(*args, **kwargs)
    key = layer.make_rng(layer.rng_collection)
    if kind == "gyro":
        return dropouts.gyro(key, x, layer.rate, "/".join(layer.path))
    return (dropouts.alpha if kind == "alpha" else dropouts.channels)(key, x, layer.rate)


def _is_smaller(layer: Any, x: Array, rank: int) -> bool:
    """Whether two factors have fewer weights than the kernel of a layer with these inputs."""
    if getattr(layer, "feature_group_count", 1) != 1:
        return False
    window = layer.kernel_size if isinstance(layer, nn.Conv) else ()
    size = math.prod(window if isinstance(window, tuple | list) else (window,))
    inputs = x.shape[-1] * size
    return rank * (inputs + layer.features) < inputs * layer.features


def _factored(layer: Any, product: Callable[..., Any], args: Any, kwargs: Any, rank: int) -> Array:
    """A layer whose kernel is a product of two factors, initialised as the best approximation of its original kernel."""
    features, biased, start, halves = layer.features, layer.use_bias, layer.kernel_init, {}

    def left(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        whole = start(key, (*shape[:-1], features), dtype)
        first, halves["right"] = _factors(whole.reshape(-1, features), rank)
        return first.reshape(shape)

    with changed_fields(layer, features=rank, use_bias=False, kernel_init=left):
        y = product(*args, **kwargs)
    right = layer.param(RIGHT, lambda key: halves["right"])
    bias = layer.param("bias", layer.bias_init, (features,), layer.param_dtype) if biased else None
    y, right, bias = nn.dtypes.promote_dtype(y, right, bias, dtype=layer.dtype)
    y = dot_general(y, right, (((y.ndim - 1,), (0,)), ((), ())), precision=layer.precision)
    return y if bias is None else y + bias.reshape(*(1,) * (y.ndim - 1), -1)


def _excitation(layer: Any, y: Array, ratio: int) -> Array:
    """Squeeze-and-excitation: a weight in (0, 1) for each channel of `[B, ..., C]`, from the means of all channels."""
    C = y.shape[-1]
    z = y.mean(tuple(range(1, y.ndim - 1)))
    for name, inputs, outputs in (("squeeze", C, max(1, C // ratio)), ("excite", max(1, C // ratio), C)):
        kernel = layer.param(f"{name}_kernel", nn.initializers.lecun_normal(), (inputs, outputs), layer.param_dtype)
        bias = layer.param(f"{name}_bias", nn.initializers.zeros, (outputs,), layer.param_dtype)
        z, kernel, bias = nn.dtypes.promote_dtype(z, kernel, bias, dtype=layer.dtype)
        z = z @ kernel + bias[None, :]
        z = nn.relu(z) if name == "squeeze" else nn.sigmoid(z)
    return z.reshape(z.shape[0], *(1,) * (y.ndim - 2), C)


def _scaled(y: Array, alpha: float) -> Array:
    """`alpha y`, whose derivative is `1 / alpha`: that of a loss divided by `alpha^2`, which is logged undivided."""
    return y / alpha + jax.lax.stop_gradient(alpha * y - y / alpha)
