"""Formal neurons and logic gates (McCulloch and Pitts 1943).

Shapes: `B` batch, `N` inputs.
"""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.models.perceptron import Perceptron
from jaxnets.theory.construction import Construction, layers_of

Gate = Literal["not", "and", "or", "nand", "nor"]


def neuron(
    weights: Sequence[float] | np.ndarray, *, bias: float | None = None, threshold: float | None = None
) -> Construction:
    """One neuron. It fires where `sum_i w_i x_i >= threshold`, which is `bias + sum_i w_i x_i >= 0` with `bias = -threshold`.

    Args:
        weights: `[N]`.
        bias: `w0`; give it or `threshold`.
        threshold: `h`; the bias is `-h`.
    """
    kernel = np.asarray(weights, float)
    if kernel.ndim != 1 or not kernel.size:
        raise ValueError(f"a neuron has one weight for each input, shape [N] with N >= 1; got {kernel.shape}")
    if (bias is None) == (threshold is None):
        raise ValueError(f"give a neuron its bias or its threshold, one of them; got {bias=} and {threshold=}")
    constant = bias if threshold is None else -threshold
    params = {"kernel": jnp.asarray(kernel[:, None]), "bias": jnp.asarray(np.array([constant], float))}
    return Construction(Perceptron(outputs=1), {"params": {"neuron": params}})


def fold_bias(construction: Construction) -> np.ndarray:
    """The weights `[N + 1]` of a neuron whose bias is the weight of a first input that is always 1."""
    ((kernel, bias),) = layers_of(construction)
    return np.concatenate([bias, kernel[:, 0]])


def gate(name: Gate, inputs: int = 2) -> Construction:
    """A neuron that computes a gate on inputs of 0 and 1: weights 1 (`not`, `nand`, `nor`: -1), and a threshold.

    Args:
        name: `not` has one input.
        inputs: how many.
    """
    thresholds = {"and": inputs, "or": 1, "nand": 1 - inputs, "nor": 0, "not": 0}
    if name not in thresholds:
        raise ValueError(f"a gate is one of {', '.join(thresholds)}, got {name!r}")
    if inputs < 1 or (name == "not" and inputs != 1):
        raise ValueError(f"a gate has at least 1 input, and `not` exactly 1; got {name!r} with {inputs}")
    sign = 1.0 if name in ("and", "or") else -1.0
    return neuron(sign * np.ones(inputs), threshold=thresholds[name])


def at_least(count: int, inputs: int) -> Construction:
    """A neuron that fires where at least `count` of its inputs of 0 and 1 are 1. Neither `and` nor `or` alone computes it."""
    if inputs < 1 or not 0 <= count <= inputs:
        raise ValueError(f"count is 0 to the number of inputs, which is at least 1; got {count} of {inputs}")
    return neuron(np.ones(inputs), threshold=count)


def recoded(construction: Construction) -> Construction:
    """The neuron for inputs of -1 and 1 that fires where the given one does for 0 and 1: `x = (s + 1) / 2`.

    The coding of the data is part of the weights. A neuron for one coding is in general wrong for the other.
    """
    ((kernel, bias),) = layers_of(construction)
    return neuron(kernel[:, 0] / 2, bias=float(bias[0] + kernel.sum() / 2))


def tanh_half(x: Array) -> Array:
    """`(1 - exp(-x)) / (1 + exp(-x))`, which lectures call the hyperbolic tangent. It is `tanh(x / 2)`, and `2 sigmoid(x) -
    1`.
    """
    return jnp.tanh(x / 2)
