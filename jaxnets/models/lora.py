"""LoRA: trains a product of two thin matrices beside each frozen kernel of a model (Hu et al. 2021, arXiv:2106.09685).

A dense layer with kernel `W` computes `x W + scale (x A) B`, with `A` `[I, R]` random and `B` `[R, O]` zero at first, so that
the adapted model starts as the model itself. `A` and `B` are the parameters `lora_a` and `lora_b` beside `kernel`; all other
parameters keep their paths.

Shapes: `I` inputs and `O` outputs of a layer (all its features together), `R` rank.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.models.wrapper import Wrapper
from jaxnets.ops import dot_general

A, B = "lora_a", "lora_b"


class LoRA(Wrapper):
    """A model with low-rank adapters in its dense layers (`nn.Dense`, `nn.DenseGeneral` and their subclasses).

    It is called as the model is and has its fields and methods. Train it with `train_only=".*/lora_.*"`; `merged` gives the
    variables of the model alone. Between the layers nothing changes, also in `nn.scan` and `nn.remat`.
    """

    rank: int = 8
    """Rank of the adapters."""
    at: str = ".*"
    """The adapted layers: a regular expression for their whole paths, such as `.*(query|value)`."""
    alpha: float | None = None
    """The adapters' outputs are multiplied by alpha / rank; None: by 1."""
    dropout: float = 0.0
    """Dropout rate of the adapters' inputs, in [0, 1), if a call has the random stream "dropout" (in training)."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRA.rank is at least 1, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA.dropout is a probability in [0, 1), got {self.dropout}")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ValueError(f"LoRA.alpha is positive, or None for the rank; got {self.alpha}")
        if isinstance(self.model, LoRA):
            raise UsageError(
                "LoRA.model has adapters already; name all layers in one pattern, LoRA(model, at='.*(a|b)')"
            )
        try:
            re.compile(self.at)
        except re.error as error:
            raise UsageError(
                f"LoRA.at is a regular expression for paths of layers, got {self.at!r}: {error}"
            ) from error
        super().__post_init__()

    @property
    def scale(self) -> float:
        """The factor of the adapters' outputs."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def merged(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Variables of `self.model` alone, with the kernels `W + scale A B`: the same function, to rounding.

        Args:
            variables: those of this module.
        """
        return {**variables, "params": _merged(variables["params"], self.scale)}

    def interceptor(self, seen: list[str]) -> Callable[..., Any]:
        """Adds an adapter to each matching dense layer, and adds the paths of all dense layers to `seen`."""

        def adapted(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            layer = context.module
            y = call(*args, **kwargs)  # first, so that the kernel has the same random numbers as without an adapter
            if context.method_name != "__call__" or not isinstance(layer, nn.Dense | nn.DenseGeneral):
                return y
            path = "/".join(layer.path[len(self.path) :])
            seen.append(path)
            if not re.fullmatch(self.at, path):
                return y
            x: Array = args[0] if args else kwargs["inputs"]
            return y + self._low_rank(layer, path, x, y.shape).astype(y.dtype)

        return adapted

    def check(self, seen: list[str]) -> None:
        """Raise `UsageError` if `at` matches none of the dense layers."""
        if not any(re.fullmatch(self.at, path) for path in seen):
            shown = ", ".join(dict.fromkeys(seen)) or "none"
            raise UsageError(
                f"LoRA.at {self.at!r} matches no dense layer of {type(self.model).__name__}; the whole path must match, and "
                f"its dense layers are: {shown}"
            )

    def _low_rank(self, layer: Any, path: str, x: Array, shape: tuple[int, ...]) -> Array:
        """`scale (x A) B` of a layer, in the shape of its outputs."""
        x = jnp.asarray(x)
        axes: Any = (-1,)
        if isinstance(layer, nn.DenseGeneral):
            axes = tuple(layer.axis) if isinstance(layer.axis, tuple | list) else (layer.axis,)
            if layer.batch_dims:
                raise UsageError(
                    f"LoRA cannot adapt {path!r}, whose batch_dims are {layer.batch_dims}; leave it out of `at`"
                )
        axes = tuple(sorted(axis % x.ndim for axis in axes))  # Linen's kernels have their dims in this order
        x = jnp.moveaxis(x, axes, range(-len(axes), 0))
        lead = x.shape[: x.ndim - len(axes)]
        x = x.reshape(*lead, -1)
        outputs = math.prod(shape[len(lead) :])
        # As in the paper's code: A as torch's linear layers start, uniform with variance 1 / (3 I).
        start = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        a = layer.param(A, start, (x.shape[-1], self.rank), layer.param_dtype)
        b = layer.param(B, nn.initializers.zeros_init(), (self.rank, outputs), layer.param_dtype)
        x, a, b = nn.dtypes.promote_dtype(x, a, b, dtype=layer.dtype)
        if self.dropout and layer.has_rng("dropout") and not layer.is_initializing():
            kept = jax.random.bernoulli(layer.make_rng("dropout"), 1 - self.dropout, x.shape)
            x = jnp.where(kept, x / (1 - self.dropout), 0)
        for matrix in (a, b):
            x = dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())), precision=layer.precision)
        return self.scale * x.reshape(shape)


def _merged(tree: Any, scale: float) -> Any:
    """A tree of parameters without adapters, each added to the kernel beside it."""
    if not isinstance(tree, Mapping):
        return tree
    merged = {name: _merged(branch, scale) for name, branch in tree.items() if name not in (A, B)}
    if A in tree:
        kernel, a, b = tree["kernel"], tree[A], tree[B]
        stacked = a.shape[:-2]  # layers in `nn.scan`
        sizes = math.prod((*stacked, a.shape[-2], b.shape[-1]))
        fits = a.shape[-1] == b.shape[-2] and b.shape[:-2] == stacked == kernel.shape[: len(stacked)]
        if not fits or sizes != kernel.size:
            raise UsageError(
                f"LoRA cannot merge adapters {list(a.shape)} and {list(b.shape)} into a kernel {list(kernel.shape)}: layers "
                f"that share one array must be numbered by its first dim (in nn.scan and nn.vmap, variable_axes 0)"
            )
        product = jnp.matmul(a, b, precision="highest")
        merged["kernel"] = kernel + (scale * product.reshape(kernel.shape)).astype(kernel.dtype)
    return merged
