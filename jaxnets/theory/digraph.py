"""A network as a directed graph of units with an activity rule, run until nothing changes or a budget is spent.

Shapes: `U` units, `B` configurations.
"""

import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.models.activations import ACTIVATIONS
from jaxnets.theory.construction import Construction, layers_of

Rule = Literal["parallel", "layered"]


class Ended(NamedTuple):
    """The end of a computation."""

    state: Any
    """The outputs of all units, the configuration: `[U]`, or `[B, U]` for several."""
    outputs: Any
    """Those of the output units."""
    steps: Any
    """Updates until nothing changed, or the whole budget."""
    stopped: Any
    """Whether it reached a fixed point of the rule."""


@dataclasses.dataclass(frozen=True, eq=False)
class Digraph:
    """Units joined by weighted edges. A unit that no edge enters and that has no bias is an input: it keeps its value.

    `weights[i, j]` is the weight of the edge from unit `j` to unit `i`, 0 for no edge. Parallel rule: all units at once take
    `activation(bias + weights @ state)`. The numbers may be floats, or `fractions.Fraction` for exact computation
    (`run_exactly`).
    """

    weights: np.ndarray
    """Weights of the edges, `[U, U]`; the row is the unit that an edge enters."""
    bias: np.ndarray
    """The bias of each unit, `[U]`."""
    inputs: tuple[int, ...]
    """The units whose values are given and kept."""
    outputs: tuple[int, ...]
    """The units that are read."""
    activation: Literal["step", "clip", "relu", "tanh", "sigmoid"] = "clip"
    """Of all units."""
    linear: tuple[int, ...] = ()
    """Units without an activation: the output layer of an MLP."""
    layers: tuple[tuple[int, ...], ...] = ()
    """Units in the order of the layered rule; () if there is none."""

    def __post_init__(self) -> None:
        units = len(self.bias)
        if self.weights.shape != (units, units):
            raise ValueError(f"{units} units have weights [{units}, {units}], got {self.weights.shape}")
        named = [*self.inputs, *self.outputs, *self.linear, *(unit for layer in self.layers for unit in layer)]
        if wrong := [unit for unit in named if not 0 <= unit < units]:
            raise ValueError(f"units are numbered 0 to {units - 1}, got {wrong}")

    def start(self, values: Any) -> np.ndarray:
        """The first configuration: given input values `[inputs]` or `[B, inputs]`, 0 elsewhere."""
        values = np.asarray(values)
        state = np.zeros((*values.shape[:-1], len(self.bias)), values.dtype)
        state[..., list(self.inputs)] = values
        return state


def run(net: Digraph, state: Any, *, rule: Rule = "parallel", budget: int = 1000) -> Ended:
    """Run a network from a configuration until a fixed point or for `budget` updates; one compiled loop.

    In float64 under `jax.enable_x64(True)`, else in float32, where two configurations are the same up to rounding.

    Args:
        net: the network.
        state: `[U]` or `[B, U]`, see `Digraph.start`. Several run until the last one stops.
        rule: parallel updates all units at once. layered updates one layer after another, which counts as one step.
        budget: a network may never stop, and whether it does is undecidable in general.
    """
    if rule == "layered" and not net.layers:
        raise ValueError("the layered rule needs layers, and this network names none; use rule='parallel'")
    if budget < 1:
        raise ValueError(f"budget is at least 1 update, got {budget}")
    state = jnp.asarray(state, jnp.result_type(float))
    weights, bias = jnp.asarray(net.weights.astype(float)), jnp.asarray(net.bias.astype(float))
    kept = np.isin(np.arange(len(net.bias)), net.inputs)
    linear = np.isin(np.arange(len(net.bias)), net.linear)
    groups = [np.isin(np.arange(len(net.bias)), layer) for layer in (net.layers if rule == "layered" else ())]
    groups = groups or [np.ones(len(net.bias), bool)]
    masks = tuple(tuple(map(bool, group & ~kept)) for group in groups)
    state, steps, stopped = _loop(
        weights, bias, jnp.atleast_2d(state), budget, net.activation, masks, tuple(map(bool, linear))
    )
    if np.ndim(stopped) and len(stopped) == 1:
        state, steps, stopped = state[0], steps[0], stopped[0]
    return Ended(state, state[..., list(net.outputs)], steps, stopped)


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _loop(
    weights: Array,
    bias: Array,
    state: Array,
    budget: int,
    activation: str,
    masks: tuple[tuple[bool, ...], ...],
    linear: tuple[bool, ...],
) -> tuple[Array, Array, Array]:
    def update(state: Array) -> Array:
        for mask in masks:
            potential = jnp.matmul(state, weights.T, precision="highest") + bias[None]
            value = jnp.where(jnp.array(linear)[None], potential, ACTIVATIONS[activation](potential))
            state = jnp.where(jnp.array(mask)[None], value, state)
        return state

    def body(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        state, taken, stopped, number = carry
        following = update(state)
        same = (following == state).all(axis=1)
        return following, jnp.where(stopped | same, taken, taken + 1), stopped | same, number + 1

    count = jnp.zeros(state.shape[0], jnp.int32)
    carry = (state, count, count > 0, jnp.int32(0))
    state, taken, stopped, _ = jax.lax.while_loop(lambda c: (c[3] < budget) & ~c[2].all(), body, carry)
    return state, taken, stopped


def run_exactly(net: Digraph, state: Sequence[Any] | np.ndarray, *, budget: int = 1000) -> Ended:
    """The parallel rule in rational numbers, without any rounding.

    Args:
        net: a network with the activation step or clip, whose weights are fractions or floats (which are fractions).
        state: `[U]`.
        budget: updates.
    """
    if net.activation not in ("step", "clip") or net.linear:
        raise ValueError(
            f"exact numbers need units with step or clip, got {net.activation} and {len(net.linear)} linear ones"
        )
    edges = [
        [(int(j), Fraction(row[j])) for j in np.flatnonzero(row)] for row in net.weights
    ]  # most units have few edges
    bias, kept = [Fraction(number) for number in net.bias], set(net.inputs)
    values = [Fraction(value) for value in state]
    for steps in range(budget):
        following = [
            values[i] if i in kept else _exact(net.activation, bias[i] + sum((w * values[j] for j, w in edges[i])))
            for i in range(len(bias))
        ]
        if following == values:
            return Ended(values, [values[unit] for unit in net.outputs], steps, True)
        values = following
    return Ended(values, [values[unit] for unit in net.outputs], budget, False)


def _exact(activation: str, potential: Fraction) -> Fraction:
    if activation == "step":
        return Fraction(potential >= 0)
    return min(max(potential, Fraction(0)), Fraction(1))


def from_mlp(construction: Construction) -> Digraph:
    """An MLP as a directed graph: its layers are layers of units, its output layer is linear.

    The layered rule computes what `model.apply` does. The parallel rule reaches the same configuration after at most as
    many updates as there are layers, since a network without cycles stops.
    """
    layers = layers_of(construction)
    sizes = [layers[0][0].shape[0], *(kernel.shape[1] for kernel, _ in layers)]
    first = np.concatenate([[0], np.cumsum(sizes)])
    weights, bias = np.zeros((first[-1], first[-1])), np.zeros(first[-1])
    for number, (kernel, shift) in enumerate(layers):
        before, after = slice(first[number], first[number + 1]), slice(first[number + 1], first[number + 2])
        weights[after, before], bias[after] = kernel.T, shift
    units = [tuple(range(first[i], first[i + 1])) for i in range(len(sizes))]
    activation: Any = getattr(construction.model, "activation", "relu")
    return Digraph(weights, bias, units[0], units[-1], activation, units[-1], tuple(units[1:]))
