"""Build a `Digraph` from units with names."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxnets.theory.digraph import Digraph


class Wiring:
    """Units with names, and the edges that enter each. Weights and biases are floats that are exact fractions."""

    def __init__(self, names: Sequence[str]) -> None:
        self.numbers = {name: number for number, name in enumerate(names)}
        self._weights = np.zeros((len(names), len(names)))
        self._bias = np.zeros(len(names))

    def unit(self, name: str, bias: float, edges: Mapping[str, float] | None = None, **more: float) -> None:
        """Set the bias of a unit and the weights of its edges from other units, by their names."""
        self._bias[self.numbers[name]] = bias
        for source, weight in {**(edges or {}), **more}.items():
            self._weights[self.numbers[name], self.numbers[source]] = weight

    def digraph(self, *, outputs: Sequence[str]) -> Digraph:
        """The network; all its units compute, so none keeps an input."""
        return Digraph(self._weights, self._bias, (), tuple(self.numbers[name] for name in outputs), "clip")
