"""The result of a constructor: a model of `jaxnets.models` and variables with which it computes the function of the theorem.

Shapes: `B` batch, `N` inputs, `C` outputs.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.models.mlp import MLP
from jaxnets.models.perceptron import Perceptron

Layers = Sequence[tuple[Any, Any]]
"""Kernel `[inputs, units]` and bias `[units]` of each layer, the output layer last."""


class Construction(NamedTuple):
    """A model and its variables. It unpacks: `model, variables = theory.xor()`.

    The variables are those that `model.init` would make, so `jaxnets.fit(model, data, initial=variables)` trains them
    further. They are float32, or float64 if they are made and used under `jax.enable_x64(True)`.
    """

    model: Any
    """A module of `jaxnets.models`."""
    variables: dict[str, Any]
    """`{"params": ...}`."""

    def __call__(self, x: Any) -> Array:
        """Outputs `[B, C]` of inputs `[B, N]`."""
        return _apply(self.model, self.variables, jnp.asarray(x, jnp.result_type(float)))

    def fires(self, x: Any) -> np.ndarray:
        """Whether the first output is at least 0, bool `[B]`: the threshold unit that ends a network of gates or
        half-spaces.
        """
        return np.asarray(self(x)[:, 0]) >= 0

    def units(self) -> int:
        """The hidden units, all layers together."""
        return sum(bias.size for _, bias in layers_of(self)[:-1])


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: Any, variables: dict[str, Any], x: Array) -> Array:
    """The model compiled once for each shape: calling it operation by operation compiles each of them."""
    outputs: Array = model.apply(variables, x)
    return outputs


def of_layers(layers: Layers, activation: Literal["relu", "tanh", "sigmoid", "step", "clip"]) -> Construction:
    """An `MLP` with these weights.

    Args:
        layers: see `Layers`; the last one is linear.
        activation: after each layer but the last.

    Raises:
        ValueError: a layer does not have as many inputs as the one before has units.
    """
    named, widths, units = {}, [], None
    for number, (kernel, bias) in enumerate(layers):
        kernel, bias = np.asarray(kernel, float), np.asarray(bias, float)
        if kernel.ndim != 2 or bias.shape != kernel.shape[1:] or units not in (None, kernel.shape[0]):
            raise ValueError(
                f"layer {number} has a kernel {kernel.shape} and a bias {bias.shape}; give [inputs, units] and [units], with "
                f"{units or 'any number of'} inputs"
            )
        units = kernel.shape[1]
        widths.append(units)
        name = "output" if number == len(layers) - 1 else f"hidden_{number}"
        named[name] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    model = MLP(widths=tuple(widths[:-1]), outputs=widths[-1], activation=activation)
    return Construction(model, {"params": named})


def layers_of(construction: Construction) -> list[tuple[np.ndarray, np.ndarray]]:
    """The kernels and biases of an `MLP` or a `Perceptron` in float64, the output layer last.

    Raises:
        ValueError: another model, or an MLP with a normalisation.
    """
    model, variables = construction
    if isinstance(model, Perceptron):
        names = ["neuron"]
    elif isinstance(model, MLP) and model.norm == "none":
        names = [*(f"hidden_{number}" for number in range(len(model.widths))), "output"]
    else:
        raise ValueError(f"only an MLP without normalisation and a Perceptron have such layers, got {model!r}")
    params = jax.device_get(variables["params"])
    return [(np.asarray(params[name]["kernel"], float), np.asarray(params[name]["bias"], float)) for name in names]
