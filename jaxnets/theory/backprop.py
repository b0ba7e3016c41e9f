"""Backpropagation by hand: numbers that remember how they were made.

A node knows its value and how to adjust its inputs. Every operation makes a node later than its inputs, so the backward
pass visits the nodes from the newest to the oldest: when it comes to one, all that depends on it has been visited.
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
        self.adjust: Callable[[float], Sequence[tuple[Node, float]]] = lambda gradient: ()

    def __add__(self, other: Number) -> "Node":
        other = node(other)
        out = Node(self.value + other.value, "+", (self, other))
        out.adjust = lambda gradient: ((self, gradient), (other, gradient))
        return out

    def __mul__(self, other: Number) -> "Node":
        other = node(other)
        out = Node(self.value * other.value, "×", (self, other))
        out.adjust = lambda gradient: ((other, self.value * gradient), (self, gradient * other.value))
        return out

    def __neg__(self) -> "Node":
        return self * -1.0

    def __sub__(self, other: Number) -> "Node":
        return self + -node(other)

    __radd__, __rmul__ = __add__, __mul__

    def tanh(self) -> "Node":
        """The hyperbolic tangent, by jax's own, so that it has the same last bit."""
        with jax.enable_x64(True):
            y = float(jnp.tanh(self.value))
        out = Node(y, "tanh", (self,))
        out.adjust = lambda gradient: ((self, gradient * (1 - y * y)),)
        return out

    def relu(self) -> "Node":
        """The larger of the number and 0, with the derivative 0 at 0."""
        out = Node(max(self.value, 0.0), "relu", (self,))
        out.adjust = lambda gradient: ((self, gradient if self.value > 0 else 0.0),)
        return out

    def history(self) -> list["Node"]:
        """This node and all that it was made from, the oldest first."""
        found, waiting = {self.number: self}, [self]
        while waiting:
            fresh = {one.number: one for one in waiting.pop().inputs if one.number not in found}
            found |= fresh
            waiting += fresh.values()
        return [found[number] for number in sorted(found)]

    def backward(self) -> None:
        """Set the gradient of every node in the history to the derivative of this one with respect to it."""
        nodes = self.history()
        for each in nodes:
            each.gradient = 0.0
        self.gradient = 1.0
        for each in reversed(nodes):
            for source, change in each.adjust(each.gradient):
                source.gradient += change  # a sum over all paths

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
