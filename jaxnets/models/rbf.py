"""Radial basis functions: units whose inner potential is a distance (Broomhead and Lowe 1988; Moody and Darken 1989).

Shapes: `B` batch, `N` features, `K` centres, `C` outputs.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxnets.models.layers import Dense, check_layers


class RBF(nn.Module):
    """A hidden layer of distances to learned centres, and a linear output.

    Unit `k` has the inner potential `xi_k = |x - c_k| / b_k`, so it responds to a neighbourhood of its centre. (A perceptron's
    unit, `w0 + sum_i w_i x_i`, splits the space by a plane.) Centres `c_k` and widths `b_k` are trained.
    """

    centres: int = 64
    """Hidden units, each with its own centre."""
    basis: Literal["gaussian", "inverse_quadratic"] = "gaussian"
    """Output for a potential: `exp(-xi^2)`, or `1 / (1 + xi^2)`, which has a gradient far from the centre too."""
    width: float = 1.0
    """Initial `b_k`, in the unit of the inputs; above 0."""
    spread: float = 1.0
    """Standard deviation of the initial centres, normal around 0; 1 covers standardised inputs."""
    outputs: int | None = None
    """Output units; None: as many as the task needs (classes, or 1 for regression)."""

    def __post_init__(self) -> None:
        check_layers(self)
        for name, least in (("centres", 1), ("width", 1e-6), ("spread", 0.0)):
            if isinstance(getattr(self, name), int | float) and not getattr(self, name) >= least:
                raise ValueError(f"RBF.{name} is at least {least}, got {getattr(self, name)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, C]` of inputs `[B, ...]`; the trailing dims are flattened to `N`."""
        x = x.reshape(x.shape[0], -1)
        centres = self.param("centres", nn.initializers.normal(self.spread), (self.centres, x.shape[-1]))
        # Parameters are logarithms of widths, so every width is positive.
        log_widths = self.param("log_widths", nn.initializers.constant(jnp.log(self.width)), (self.centres,))
        # From the differences, not as |x|^2 - 2 x c + |c|^2: near a centre that form loses all its digits.
        squares = jnp.square(x[:, None, :] - centres[None].astype(x.dtype)).sum(axis=-1)
        squares = squares * jnp.exp(-2 * log_widths)[None].astype(x.dtype)
        hidden = jnp.exp(-squares) if self.basis == "gaussian" else 1 / (1 + squares)
        return Dense(self.outputs or 1, name="output")(hidden)
