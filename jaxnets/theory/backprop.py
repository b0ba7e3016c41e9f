"""Backpropagation by hand: numbers that remember how they were made.

A node knows its value and how to adjust its inputs. Every operation makes a node later than its inputs, so the backward
pass, from the newest node to the oldest, comes to a node after all that depends on it. The backward pass is itself a
computation of nodes, so a derivative has a graph and derivatives of its own.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Union

import jax
import jax.numpy as jnp

Number = Union["Node", float]
_count = itertools.count()


class Node:
    """A number in a computation; `gradient` is the derivative of the result with respect to it, after `backward`."""

    def __init__(self, value: float, operation: str = "", inputs: tuple["Node", ...] = ()) -> None:
        self.value, self.operation, self.inputs = value, operation, inputs
        self.number, self.gradient = next(_count), 0.0
        # Given the gradient of this node: pairs of an input and what to add to its gradient.
        self.adjust: Callable[[Node], Sequence[tuple[Node, Node]]] = lambda gradient: ()

    def __add__(self, other: Number) -> "Node":
        other = node(other)
        out = Node(self.value + other.value, "+", (self, other))
        out.adjust = lambda gradient: ((self, gradient), (other, gradient))
        return out

    def __mul__(self, other: Number) -> "Node":
        other = node(other)
        out = Node(self.value * other.value, "×", (self, other))
        out.adjust = lambda gradient: ((other, self * gradient), (self, gradient * other))
        return out

    def __neg__(self) -> "Node":
        return self * -1.0

    def __sub__(self, other: Number) -> "Node":
        return self + -node(other)

    __radd__, __rmul__ = __add__, __mul__

    def tanh(self) -> "Node":
        """The hyperbolic tangent, by jax's own, so that it has the same last bit."""
        with jax.enable_x64(True):
            out = Node(float(jnp.tanh(self.value)), "tanh", (self,))
        out.adjust = lambda gradient: ((self, gradient * (node(1.0) - out * out)),)
        return out

    def relu(self) -> "Node":
        """The larger of the number and 0, with the derivative 0 at 0."""
        out = Node(max(self.value, 0.0), "relu", (self,))
        out.adjust = lambda gradient: ((self, gradient if self.value > 0 else node(0.0)),)
        return out

    def history(self) -> list["Node"]:
        """This node and all that it was made from, the oldest first."""
        found, waiting = {self.number: self}, [self]
        while waiting:
            fresh = {one.number: one for one in waiting.pop().inputs if one.number not in found}
            found |= fresh
            waiting += fresh.values()
        return [found[number] for number in sorted(found)]

    def derivative(self, by: "Node") -> "Node":
        """The derivative of this node with respect to another one, as a node that has derivatives too."""
        return self._derivatives().get(by.number, node(0.0))

    def backward(self) -> None:
        """Set the gradient of every node in the history to the derivative of this one with respect to it."""
        found = self._derivatives()
        for each in self.history():
            each.gradient = found[each.number].value

    def _derivatives(self) -> dict[int, "Node"]:
        found = {self.number: node(1.0)}
        for each in reversed(self.history()):
            for source, change in each.adjust(found[each.number]):
                known = found.get(source.number)
                found[source.number] = change if known is None else known + change  # a sum over all paths
        return found

    def mermaid(self) -> str:
        """The graph of the computation with values and gradients, as a Mermaid diagram, which Markdown pages draw."""
        lines = ["graph LR"]
        for each in self.history():
            text = f"{each.operation or 'given'}<br>{each.value:.4g}<br>∂ {each.gradient:.4g}"
            lines.append(f'  n{each.number}["{text}"]')
            lines += [f"  n{source.number} --> n{each.number}" for source in each.inputs]
        return "\n".join(lines)


def node(value: Number) -> Node:
    """A node of a number; a node stays itself."""
    return value if isinstance(value, Node) else Node(float(value))
