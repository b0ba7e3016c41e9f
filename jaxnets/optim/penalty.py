"""Penalties on weights: limits of their size, exact zeros for small ones, and noise that makes them robust.

L2 and Lp are terms of the objective, for any optimizer. L1 is a separate step after each update (proximal gradient,
ISTA): weights within `rate * l1` of 0 become 0, and all others move by as much towards it. A term `l1 |w|` would leave them
around 0, because its slope jumps there.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.ops.roles import role
from jaxnets.optim.gradient import add_normal


@dataclasses.dataclass(frozen=True)
class Penalty:
    """Penalties on weights; by default there are none.

    In terms of the mean loss L of a batch, `L + l1 sum |w| + l2 / 2 sum w^2 + lp / p sum |w|^p` is minimised over the chosen
    weights w. With SGD, `l2` is its `weight_decay`; AdamW's decay is another one, as Adam rescales a gradient.
    """

    l1: float = 0.0
    """Weight of the sum of magnitudes. With SGD without momentum the step is exactly proximal gradient descent; with others it
    is decoupled, as AdamW's decay is."""
    l2: float = 0.0
    """Weight of half the sum of squares."""
    lp: float = 0.0
    """Weight of a p-th of the sum of p-th powers of the magnitudes."""
    p: float = 1.5
    """The power of `lp`, at least 1. With 1 it is L1 as a term of the loss, without exact zeros, for any optimizer."""
    weight_noise: float = 0.0
    """Standard deviation of Gaussian noise on the weights in the forward pass of training, drawn for each step."""
    on: tuple[str, ...] = ()
    """Paths of the parameters to which all this applies, `*` for any text; (): those that `jaxnets.ops.roles` classifies as
    weights."""

    def __post_init__(self) -> None:
        for name in ("l1", "l2", "lp", "weight_noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"penalty.{name} is at least 0, got {getattr(self, name)}")
        if not 1 <= self.p < math.inf:
            raise UsageError(f"penalty.p is at least 1, got {self.p}")

    @property
    def in_loss(self) -> bool:
        """Whether there is a term of the loss."""
        return bool(self.l2 or self.lp)

    @property
    def active(self) -> bool:
        """Whether there is any."""
        return bool(self.l1 or self.in_loss or self.weight_noise)

    def chosen(self, params: Any, beginning: str = "") -> Any:
        """The chosen parameters, as a tree of bools; `beginning` is the prefix of their paths in a larger tree."""

        def is_meant(path: Any, _: Any) -> bool:
            name = beginning + jax.tree_util.keystr(path, simple=True, separator="/")
            return any(fnmatch.fnmatchcase(name, p) for p in self.on) if self.on else role(path) == "weight"

        return jax.tree_util.tree_map_with_path(is_meant, params)

    def check(self, params: Any) -> None:
        """Raise `UsageError` for a pattern that matches no parameter."""
        for pattern in self.on:
            if not any(jax.tree.leaves(dataclasses.replace(self, on=(pattern,)).chosen(params))):
                names = [
                    jax.tree_util.keystr(path, simple=True, separator="/")
                    for path, _ in jax.tree_util.tree_leaves_with_path(params)
                ]
                raise UsageError(f"penalty.on {pattern!r} matches no parameter; they are {', '.join(names[:8])}, ...")

    def value(self, params: Any, beginning: str = "") -> Array:
        """The terms of the loss, a float32 scalar."""
        total = jnp.zeros((), jnp.float32)
        for leaf, meant in zip(jax.tree.leaves(params), jax.tree.leaves(self.chosen(params, beginning)), strict=True):
            size = jnp.abs(leaf.astype(jnp.float32))
            if meant and self.l2:
                total += self.l2 / 2 * jnp.square(size).sum()
            if meant and self.lp:
                total += self.lp / self.p * (size**self.p).sum()
        return total

    def thresholded(self, params: Any, rate: Array | float, beginning: str = "") -> Any:
        """The proximal step of L1: `sign(w) max(|w| - rate l1, 0)` for the chosen weights."""

        def soft(leaf: Array, meant: bool) -> Array:
            if not meant:
                return leaf
            return jnp.sign(leaf) * jnp.maximum(jnp.abs(leaf) - jnp.asarray(rate * self.l1, leaf.dtype), 0)

        return jax.tree.map(soft, params, self.chosen(params, beginning))

    def noisy(self, params: Any, key: Array, beginning: str = "") -> Any:
        """The parameters in the forward pass of training."""
        return add_normal(params, key, self.weight_noise, self.chosen(params, beginning))

    def needs_rate(self, rate: Callable[[Array], Any] | None, optimizer: str) -> None:
        """Raise `UsageError` if there is an L1 step, and the optimizer does not expose its learning rate."""
        if self.l1 and rate is None:
            raise UsageError(
                f"penalty.l1 moves weights by the learning rate of each step, and {optimizer} does not say a single one; give "
                f"an optimizer of jaxnets.optim with a schedule, or use penalty.lp with penalty.p=1"
            )
