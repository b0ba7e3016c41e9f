"""The perceptron: a weighted sum and a threshold (Rosenblatt, 1958), of the inputs or of fixed functions of them.

Shapes: `B` batch, `N` features, `K` basis functions, `F` output units.
"""

import itertools
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.models.layers import check_layers

# Limit on basis functions; more are probably a mistake.
MOST_FUNCTIONS = 10_000


class Perceptron(nn.Module):
    """Formal neurons: inner potential `xi = w0 + sum_i w_i x_i`, output `sigma(xi)`.

    As is usual for a classifier the module returns the inner potentials; `fire` applies the threshold. The perceptron's
    own learning rule is `jaxnets.tasks.PerceptronRule`; with `Classification` the same module is softmax regression.
    """

    outputs: int | None = None
    """Output units; None: the number of classes in the data."""
    coding: Literal["step", "sign"] = "step"
    """Outputs of a unit: step gives 0 or 1, sign gives -1 or 1. A potential of exactly 0 gives 1."""
    basis: Literal["none", "polynomial", "radial"] = "none"
    """Functions that are weighted. none: the inputs; polynomial: all their products of up to `degree` factors; radial:
    `exp(-(|x - c| / width)^2)` around fixed centres. They are not trained, so the unit is linear in its weights and the
    learning rule is the same."""
    degree: int = 2
    """Maximum number of factors in a product (polynomial)."""
    centres: int = 64
    """Radial functions; their centres are drawn once from a standard normal, which suits standardised inputs."""
    width: float = 1.0
    """Width of a radial function, in the unit of the inputs."""

    def __post_init__(self) -> None:
        check_layers(self)
        for name, least in (("degree", 1), ("centres", 1), ("width", 1e-6)):
            if isinstance(getattr(self, name), int | float) and not getattr(self, name) >= least:
                raise ValueError(f"Perceptron.{name} is at least {least}, got {getattr(self, name)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """The inner potentials `[B, F]` of inputs `[B, ...]`; the trailing dims are flattened to `N`."""
        return nn.Dense(self.outputs or 1, name="neuron", kernel_init=nn.initializers.zeros)(self.expand(x))

    @nn.nowrap
    def expand(self, x: Array) -> Array:
        """Basis functions `[B, K]` of inputs `[B, ...]`; without the constant, whose weight is the bias."""
        x = x.reshape(x.shape[0], -1)
        if self.basis == "polynomial":
            functions = math.comb(x.shape[1] + self.degree, self.degree) - 1
            if functions > MOST_FUNCTIONS:
                raise ValueError(
                    f"{x.shape[1]} inputs have {functions:,} products of up to {self.degree} factors, more than "
                    f"{MOST_FUNCTIONS:,}; choose a lower degree, or the radial basis"
                )
            # index[d - 1] has one row for each combination of d inputs.
            index = [
                jnp.asarray(list(itertools.combinations_with_replacement(range(x.shape[1]), d)))
                for d in range(1, self.degree + 1)
            ]
            return jnp.concatenate([x[:, which].prod(axis=-1) for which in index], axis=-1)
        if self.basis == "radial":
            centres = jax.random.normal(jax.random.key(0), (self.centres, x.shape[1])).astype(x.dtype)
            squares = jnp.square(x[:, None] - centres[None]).sum(axis=-1)
            return jnp.exp(-squares / self.width**2)
        return x

    def fire(self, potential: Array) -> Array:
        """The threshold: potentials of any shape to {0, 1} or {-1, 1}, in the same shape and dtype."""
        low = 0 if self.coding == "step" else -1
        return jnp.where(potential >= 0, 1, low).astype(potential.dtype)
