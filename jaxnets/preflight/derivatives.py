"""Whether the gradient is that of the loss: derivatives in random directions against central finite differences.

In float64 a step can be so small that neither curvature nor rounding counts, and hardly any unit crosses the kink of a ReLU
or of a maximum on the way. Where a part of the model computes in float32 for any input, such steps are lost in its
rounding. Then larger steps in float32 are compared, which only show a large fault.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxnets.core.errors import first_line
from jaxnets.core.types import Batch, Variables
from jaxnets.preflight.finding import Finding, amber, green, skipped
from jaxnets.preflight.learning import NOT_BY_GRADIENT
from jaxnets.preflight.subject import Subject

# Steps in units of the size of each parameter. In float32 a small one is lost in rounding, and a large one in curvature.
STEPS, STEPS_OF_FLOAT32 = (3e-8, 1e-8), (1e-2, 3e-3, 1e-3)
# Random directions: the middle one counts in float64, the worst one in float32.
DIRECTIONS, DIRECTIONS_IN_FLOAT32 = 3, 2
# Errors above these are faults. Those of the shipped configurations are below 2e-7 in float64; steps of 1e-6 would make them
# 7e-4, where units cross their kinks. In float32 curvature makes errors of 2 %.
TOLERANCE, TOLERANCE_OF_FLOAT32 = 1e-4, 0.1
# Differences in float64 are settled where those of both steps agree within this.
SETTLED = 1e-5


@dataclasses.dataclass(frozen=True)
class Slope:
    """The derivative of the loss in one direction."""

    expected: float
    """By the gradient."""
    scale: float
    """Root of the sum of squares of what each array of parameters adds to it."""
    differences: np.ndarray
    """By central differences, for each step."""
    rounding: np.ndarray
    """What the rounding of a loss in float32 may add to each."""

    @property
    def errors(self) -> np.ndarray:
        """How far the differences are from the gradient, relative to `scale`."""
        return np.asarray(np.abs(self.differences - self.expected) / self.scale)

    @property
    def apart(self) -> float:
        """How far the differences of the first two steps are from each other, relative to `scale`.

        Infinite where both are 0 and the gradient is not: the loss may be too coarse for the steps.
        """
        if self.expected and not self.differences.any():
            return float("inf")
        return float(abs(self.differences[0] - self.differences[1]) / self.scale)


def derivatives(subject: Subject) -> Finding:
    """The gradient is that of the loss: it agrees with finite differences in random directions."""
    if not subject.by_gradient:
        return skipped(NOT_BY_GRADIENT)
    try:
        with jax.enable_x64(True):
            found = slopes(subject, _double(subject.variables), _double(subject.batch), STEPS, DIRECTIONS)
    except Exception as error:  # whatever a model raises for numbers in float64
        why = f"the model does not compute in float64: {type(error).__name__}, {first_line(error, most=100)}"
    else:
        if np.median([slope.apart for slope in found]) <= SETTLED:
            off = float(np.median([slope.errors.min() for slope in found]))
            return _judged(off, TOLERANCE, f"float64, the middle one of {DIRECTIONS} random directions")
        why = "a part of the model computes in float32, in which the small steps of float64 are lost"
    found = slopes(subject, subject.variables, subject.batch, STEPS_OF_FLOAT32, DIRECTIONS_IN_FLOAT32)
    # The best of the steps counts, beyond the rounding that each may have.
    off = max(float(np.maximum(slope.errors - slope.rounding / slope.scale, 0).min()) for slope in found)
    return _judged(off, TOLERANCE_OF_FLOAT32, f"float32, {DIRECTIONS_IN_FLOAT32} random directions; {why}")


def _judged(error: float, tolerance: float, how: str) -> Finding:
    facts = f"the derivative differs from finite differences by {error:.2g} of its size ({how})"
    if not error <= tolerance:  # not a number is a fault too
        return amber(
            f"{facts}.",
            "Some part of the loss has another gradient than its own: stop_gradient, a custom_vjp, rounding, a "
            "straight-through estimator. If none is meant, look there.",
        )
    return green(facts)


def slopes(
    subject: Subject, variables: Variables, batch: Batch, steps: Sequence[float], directions: int
) -> list[Slope]:
    """Derivatives of the training loss of a batch in random directions, in the format of the variables and the batch."""
    # On the host: each of these operations on the device would be a program of its own.
    params, rng = jax.device_get(variables["params"]), np.random.default_rng(0)
    start, slope = subject.slope(variables, batch)
    gradient, frozen = jax.device_get(slope), subject.parts.recipe.frozen
    held = jax.tree.map(lambda _: False, params) if frozen is None else frozen(params)

    def drawn(p: np.ndarray, g: np.ndarray, fixed: bool) -> np.ndarray:
        """As large as the parameter itself, and half of it along the gradient, so that it is not lost in it."""
        size = 0.0 if fixed else np.sqrt(np.square(p).mean()) + 1e-2
        return (size * (rng.normal(size=p.shape) + np.sign(g))).astype(p.dtype)

    def along(direction: Any, size: float) -> float:
        ends = []
        for step in (size, -size):
            there = jax.tree.map(lambda p, d, step=step: p + (step * d).astype(p.dtype), params, direction)
            ends.append(subject.slope({**variables, "params": there}, batch)[0])
        return (ends[0] - ends[1]) / (2 * size)

    found, rounding = [], np.array([1e-6 * max(abs(start), 1e-3) / step for step in steps])
    for _ in range(directions):
        direction = jax.tree.map(drawn, params, gradient, held)
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        inner = [float(np.vdot(g.astype(np.float64), d)) for g, d in pairs]
        scale = float(np.sqrt(np.square(inner).sum())) + 1e-12
        found.append(Slope(sum(inner), scale, np.array([along(direction, step) for step in steps]), rounding))
    return found


def _double(tree: Any) -> Any:
    """The same with real numbers in float64, on the host."""

    def wider(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        return array.astype(np.float64) if jax.numpy.issubdtype(array.dtype, np.floating) else array

    return jax.tree.map(wider, tree)
