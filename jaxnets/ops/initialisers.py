"""Initial weights of any model from a chosen distribution and gain, drawn by the path of each parameter.

Shapes: `I` inputs and `O` outputs of a layer; a kernel is `[..., I, O]`, with the window of a convolution before them.
"""

import dataclasses
import functools
import math
import re
import zlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import initializers

from jaxnets.core.errors import UsageError
from jaxnets.core.typecheck import check_choices
from jaxnets.ops.roles import name_of, role

# Numbers of a normal distribution that is cut off at two deviations have this deviation.
CUT = 0.87962566103423978


@dataclasses.dataclass(frozen=True)
class Initialiser:
    """How the kernels of a model are initialised; by default as in the model.

    Kernels are the parameters that multiply inputs (`jaxnets.ops.roles`), without embeddings and adapters. Biases, embeddings
    and positions keep the initialisers of the model.
    """

    weights: Literal[
        "model", "lecun_normal", "he", "glorot", "orthogonal", "delta_orthogonal", "truncated", "zeros"
    ] = "model"
    """- model: as the model says.
    - lecun_normal: variance 1 / fan-in (LeCun et al. 1998), normal; he: 2 / fan-in (He et al. 2015), normal. Both are cut off
      at two deviations and have the stated variance after that.
    - glorot: uniform, variance 2 / (fan-in + fan-out) (Glorot and Bengio 2010).
    - orthogonal: rows or columns are orthonormal (Saxe et al. 2014). delta_orthogonal: so at the centre of the window of a
      convolution, which is 0 elsewhere (Xiao et al. 2018); needs I <= O. Dense layers as in orthogonal.
    - truncated: normal with deviation `deviation`, cut off at two of them.
    - zeros."""
    gain: float = 1.0
    """Factor of all kernels; with tanh 5/3, say."""
    last_gain: float = 1.0
    """Further factor of the kernels that `last` matches; with 0 the first outputs equal the bias."""
    deviation: float = 0.02
    """Standard deviation for `truncated`."""
    last: str = r"(.*/)?(output|head|logits)/(kernel|right_kernel)"
    """The kernels of the last layer: a regular expression for whole paths."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("gain", "last_gain", "deviation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"initialiser.{name} is at least 0, got {getattr(self, name)}")
        try:
            re.compile(self.last)
        except re.error as error:
            raise UsageError(
                f"initialiser.last is a regular expression for paths, got {self.last!r}: {error}"
            ) from error

    @property
    def changes(self) -> bool:
        """Whether any kernel is initialised differently from the model's default."""
        return self.weights != "model" or self.gain != 1 or self.last_gain != 1

    def is_last(self, name: str) -> bool:
        """Whether the kernel at this path belongs to the last layer."""
        return re.fullmatch(self.last, name) is not None


def initialised(params: Any, key: Array, initialiser: Initialiser) -> Any:
    """Parameters whose kernels are initialised by `initialiser`.

    The numbers of a kernel depend only on `key`, its path and its shape, so they are the same on any mesh and do not depend on
    other parameters.

    Raises:
        UsageError: `last` matches no kernel where it is needed, or a kernel has no delta-orthogonal form.
    """
    if not initialiser.changes:
        return params
    last = []

    def begin(path: Any, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not is_kernel(path, leaf):
            return leaf
        gain = initialiser.gain
        if initialiser.is_last(name):
            last.append(name)
            gain *= initialiser.last_gain
        if initialiser.weights != "model":
            own = jax.random.fold_in(key, zlib.crc32(name.encode()))
            leaf = _draw(initialiser, name, own, leaf)
        return leaf if gain == 1 else leaf * jnp.asarray(gain, leaf.dtype)

    made = jax.tree_util.tree_map_with_path(begin, params)
    if initialiser.last_gain != 1 and not last:
        raise UsageError(
            f"initialiser.last {initialiser.last!r} matches no kernel, so last_gain {initialiser.last_gain} is for none; give "
            f"a pattern for the path of the last layer's kernel"
        )
    return made


def is_kernel(path: Any, leaf: Any) -> bool:
    """Whether a parameter is a kernel whose initial values follow from its shape."""
    name = name_of(path).lower()
    return leaf.ndim >= 2 and role(path) == "weight" and "embed" not in name and not name.startswith("lora")


def stacked_dims(name: str, leaf: Any) -> int:
    """How many leading dims of a kernel number layers: those of `nn.scan` (named `blocks`), and experts or groups.

    Experts and groups are in arrays such as `up_kernel` `[E, I, O]`; the array of a layer itself is called `kernel`.
    """
    own = name.rsplit("/", 1)[-1]
    scanned = int("blocks" in name.split("/"))
    return scanned + int(own != "kernel" and leaf.ndim - scanned == 3)


def _draw(initialiser: Initialiser, name: str, key: Array, leaf: Array) -> Array:
    count, kind = stacked_dims(name, leaf), initialiser.weights
    shape = leaf.shape[count:]
    make: Any
    if kind in ("lecun_normal", "he"):
        make = initializers.variance_scaling(2.0 if kind == "he" else 1.0, "fan_in", "truncated_normal")
    elif kind == "glorot":
        make = initializers.glorot_uniform()
    elif kind == "zeros":
        make = initializers.zeros
    elif kind == "truncated":
        make = initializers.truncated_normal(initialiser.deviation / CUT)
    elif kind == "delta_orthogonal" and len(shape) > 2:
        if shape[-2] > shape[-1]:
            raise UsageError(
                f"{name} has {shape[-2]} inputs and {shape[-1]} outputs, and delta_orthogonal needs at least as many outputs; "
                f"use orthogonal"
            )
        make = initializers.delta_orthogonal()
    else:
        make = initializers.orthogonal()
    draw = functools.partial(make, shape=shape, dtype=leaf.dtype)
    for _ in range(count):  # one draw for each of the stacked layers
        draw = jax.vmap(draw)
    keys = jax.random.split(key, leaf.shape[:count]) if count else key
    return draw(keys)
