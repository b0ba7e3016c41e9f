"""The perceptron: a weighted sum and a threshold (Rosenblatt, 1958).

Shapes: `B` batch, `N` features, `F` output units.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array


class Perceptron(nn.Module):
    """Formal neurons: inner potential `xi = w0 + sum_i w_i x_i`, output `sigma(xi)`.

    As is usual for a classifier the module returns the inner potentials; `fire` applies the threshold. The perceptron's
    own learning rule is `jaxnets.tasks.PerceptronRule`; with `Classification` the same module is softmax regression.
    """

    outputs: int | None = None
    """Output units; None takes as many as the data have classes."""
    coding: Literal["step", "sign"] = "step"
    """What a unit says: step answers 0 or 1, sign answers -1 or 1. A potential of exactly 0 fires (answers 1)."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """The inner potentials `[B, F]` of inputs `[B, ...]`; the trailing dims are flattened to `N`."""
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(self.outputs or 1, name="neuron", kernel_init=nn.initializers.zeros)(x)

    def fire(self, potential: Array) -> Array:
        """The threshold: potentials of any shape to {0, 1} or {-1, 1}, in the same shape and dtype."""
        low = 0 if self.coding == "step" else -1
        return jnp.where(potential >= 0, 1, low).astype(potential.dtype)
