"""Activations by name: those of JAX, further ones, and the gates of feed-forward layers.

The potential `x` of a unit is its weighted sum with the bias. It has any shape, and so has the output.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import did_you_mean


@jax.custom_jvp
def step(x: Array) -> Array:
    """The unit step: 1 for `x >= 0`, 0 below; the same dtype. A potential of exactly 0 fires.

    Its derivative is 0 wherever it exists, so nothing before it would be trained. The gradient here is straight-through:
    that of the identity for `|x| <= 1`, 0 elsewhere (Bengio et al. 2013; Hubara et al. 2016, eq. 4).
    """
    return jnp.where(x >= 0, 1, 0).astype(x.dtype)


@step.defjvp
def _step_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    return step(x), jnp.where(jnp.abs(x) <= 1, tangent, 0)


def clip(x: Array) -> Array:
    """The saturated-linear function: `x` between 0 and 1, else the nearer of the two. Its gradient at 0 and at 1 is 0."""
    return jnp.where(x <= 0, 0, jnp.where(x >= 1, 1, x)).astype(x.dtype)


def steep_sigmoid(x: Array, steepness: float = 10.0) -> Array:
    """`1 / (1 + exp(-steepness x))`; it tends to the unit step as the steepness grows. By name the steepness is 10."""
    return nn.sigmoid(steepness * x)


def half_tanh(x: Array) -> Array:
    """`(1 - exp(-x)) / (1 + exp(-x))`, which is `tanh(x / 2)`; computed so, because `exp` overflows."""
    return jnp.tanh(x / 2)


def squared_relu(x: Array) -> Array:
    """`max(x, 0)^2` (So et al. 2021, "Primer")."""
    return jnp.square(nn.relu(x))


def sparsemax(x: Array) -> Array:
    """The point of the simplex nearest to each row `[..., K]`: a softmax that can be exactly 0 (Martins and Astudillo 2016).

    Its Jacobian is `Diag(s) - s s^T / |s|_1` with `s` the indicator of the support (their eq. 11). As the activation of a
    hidden layer it acts on all units of the layer together. Its loss is `optax.losses.sparsemax_loss` for two classes.
    """
    from optax.projections import projection_simplex

    rows = x.reshape(-1, x.shape[-1])
    return jax.vmap(projection_simplex)(rows).reshape(x.shape).astype(x.dtype)


Activation = Literal[
    "relu", "gelu", "gelu_exact", "tanh", "half_tanh", "sigmoid", "steep_sigmoid", "silu", "leaky_relu", "prelu", "elu",
    "selu", "softplus", "mish", "hard_swish", "squared_relu", "sparsemax", "step", "clip",
]  # fmt: skip
"""Names of activations:

- relu; leaky_relu: slope .01 below 0; prelu: a slope for each layer that is learned (He et al. 2015); squared_relu.
- gelu: Hendrycks and Gimpel (2016) in the tanh form; gelu_exact: with the error function.
- silu (swish): `x sigmoid(x)`; hard_swish: its piecewise form (Howard et al. 2019); mish: Misra (2019); softplus.
- elu: Clevert et al. (2016); selu: Klambauer et al. (2017), which keeps mean 0 and variance 1 with `lecun_normal` weights.
- sigmoid; steep_sigmoid: of 10 x; tanh; half_tanh: `(1 - e^-x) / (1 + e^-x)`.
- step: 1 from 0 on, 0 below, with a straight-through gradient; clip: the saturated-linear function, `min(max(x, 0), 1)`.
- sparsemax: see there.
"""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "gelu_exact": lambda x: nn.gelu(x, approximate=False),
    "tanh": nn.tanh,
    "half_tanh": half_tanh,
    "sigmoid": nn.sigmoid,
    "steep_sigmoid": steep_sigmoid,
    "silu": nn.silu,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "selu": nn.selu,
    "softplus": nn.softplus,
    "mish": jax.nn.mish,
    "hard_swish": nn.hard_swish,
    "squared_relu": squared_relu,
    "sparsemax": sparsemax,
    "step": step,
    "clip": clip,
}

Gate = Literal["glu", "reglu", "geglu", "swiglu"]
"""Gated linear units (Dauphin et al. 2017; Shazeer 2020): the product of one linear map and the sigmoid, ReLU, GELU (tanh
form) or SiLU of another one."""

GATES: dict[str, Callable[[Array], Array]] = {"glu": nn.sigmoid, "reglu": nn.relu, "geglu": nn.gelu, "swiglu": nn.silu}

FeedForward = Literal[
    "relu", "gelu", "gelu_exact", "tanh", "silu", "leaky_relu", "elu", "selu", "softplus", "mish", "hard_swish",
    "squared_relu", "glu", "reglu", "geglu", "swiglu",
]  # fmt: skip
"""The function of a feed-forward layer of a transformer between its linear maps: an `Activation` of one, or a `Gate` of
two."""


def activation(name: str) -> Callable[[Array], Array]:
    """The activation of this name, a function of arrays of any shape.

    Raises:
        ValueError: there is none, or it has parameters of its own (prelu).
    """
    if name == "prelu":
        raise ValueError(
            "prelu learns its slope, so it is a layer and no function; use `activated` in a compact method"
        )
    if name not in ACTIVATIONS:
        raise ValueError(f"there is no activation {name!r}. {did_you_mean(name, (*ACTIVATIONS, 'prelu'))}")
    return ACTIVATIONS[name]


def activated(name: str, x: Array, slope: str) -> Array:
    """The activation of potentials, in a compact method: with prelu, a layer called `slope` holds the learned slope."""
    return nn.PReLU(name=slope)(x) if name == "prelu" else activation(name)(x)


def feed_forward(kind: str, up: Array, gate: Callable[[], Array]) -> Array:
    """The hidden units of a feed-forward layer from its linear map `up`, and that of its gate if it has one.

    Args:
        kind: one of `FeedForward`.
        up: `[..., F]`.
        gate: computes the second map, of the same shape; it is not called by kinds without a gate.
    """
    return GATES[kind](gate()) * up if kind in GATES else activation(kind)(up)


def check_no_slopes(model: Any) -> None:
    """Raise `ValueError` if the activation has parameters, for a model whose layers are made before its call."""
    if model.activation == "prelu":
        raise ValueError(
            f"{type(model).__name__} has no prelu; leaky_relu has a fixed slope, and MLP and CNN have both"
        )
