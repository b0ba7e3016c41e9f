"""Paths between two solutions: the straight line, with the units of one in the order of the other, and a trained curve.

Shapes: `F` units of a hidden layer.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.diagnose.curvature import Loss

# A share of the way, from 0 to 1, to parameters.
Path = Callable[[Any], Any]


def straight(a: Any, b: Any) -> Path:
    """The line from `a` to `b`."""
    return lambda share: jax.tree.map(lambda x, y: x + share * (y - x), a, b)


def bezier(a: Any, control: Any, b: Any) -> Path:
    """The quadratic Bezier curve from `a` to `b`, `(1 - t)^2 a + 2 t (1 - t) control + t^2 b`."""
    return lambda t: jax.tree.map(lambda x, c, y: (1 - t) ** 2 * x + 2 * t * (1 - t) * c + t**2 * y, a, control, b)


def losses_along(loss: Loss, path: Path, *, points: int = 21) -> np.ndarray:
    """The loss at evenly spaced shares of a path from 0 to 1, `[points]`."""
    if points < 3:
        raise UsageError(f"points is at least 3, both ends included; got {points}")
    one = jax.jit(lambda share: loss(path(share)))
    return np.asarray([float(one(share)) for share in np.linspace(0, 1, points).tolist()])


def barrier(losses: np.ndarray) -> float:
    """By how much losses along a path rise above the line between their ends; 0 where they do not (Frankle et al. 2020)."""
    shares = np.linspace(0, 1, len(losses))
    return max(0.0, float((losses - ((1 - shares) * losses[0] + shares * losses[-1])).max()))


def connected(
    loss: Loss,
    a: Any,
    b: Any,
    *,
    steps: int = 300,
    optimizer: optax.GradientTransformation | None = None,
    seed: int = 0,
) -> Any:
    """The control point of a quadratic Bezier curve from `a` to `b`, trained to a low loss along it (Garipov et al. 2018).

    Each step takes the gradient at a uniformly random share of the curve. The control point begins half-way.

    Args:
        loss: parameters to a scalar.
        a: parameters of one solution.
        b: those of the other.
        steps: of the optimizer.
        optimizer: None: Adam with a rate of 0.01.
        seed: of the shares.
    """
    if steps < 1:
        raise UsageError(f"steps is at least 1, got {steps}")
    chain = optax.adam(1e-2) if optimizer is None else optimizer

    def one(state: tuple[Any, Any], key: Array, a: Any, b: Any) -> tuple[tuple[Any, Any], None]:
        control, memory = state
        share = jax.random.uniform(key)
        slope = jax.grad(
            lambda control: loss(bezier(a, control, b)(share.astype(jnp.result_type(*jax.tree.leaves(a)))))
        )
        updates, memory = chain.update(slope(control), memory, control)
        return (optax.apply_updates(control, updates), memory), None

    @jax.jit
    def train(a: Any, b: Any) -> Any:
        control = straight(a, b)(0.5)
        keys = jax.random.split(jax.random.key(seed), steps)
        (control, _), _ = jax.lax.scan(lambda state, key: one(state, key, a, b), (control, chain.init(control)), keys)
        return control

    return train(a, b)


def matched(like: Any, params: Any, *, rounds: int = 20) -> Any:
    """The same function as `params`, an MLP, with its hidden units in the order that is nearest to `like`.

    Nearest in Euclidean norm: one hidden layer is an assignment problem, solved exactly; several are solved in turns until
    nothing changes (Ainsworth et al. 2023, weight matching), which is a local optimum.

    Args:
        like: parameters of the other MLP, of the same shapes.
        params: those whose units are reordered: `hidden_0`, `hidden_1`, ..., `output`, and `norm_0`, ... where there are any.
        rounds: most turns over all layers.

    Raises:
        UsageError: the trees are not those of an MLP of one shape.
    """
    ours, theirs = jax.tree.map(np.asarray, params), jax.tree.map(np.asarray, like)
    if jax.tree.map(np.shape, ours) != jax.tree.map(np.shape, theirs):
        raise UsageError("matched compares two networks of one shape, and these have parameters of different shapes")
    strange = [name for name in ours if not re.fullmatch(r"(hidden|norm|slope)_\d+|output", name)]
    layers = sum(name.startswith("hidden_") for name in ours)
    if strange or not layers or "output" not in ours:
        raise UsageError(
            f"matched reorders the units of an MLP with layers hidden_0, ..., output; got {', '.join(sorted(ours))}"
        )
    # From the order that is given, and from that in which weights from below alone are alike, layer by layer: the latter finds
    # every permuted copy.
    below = ours
    for layer in range(layers):
        below = _reordered(below, layer, layers, _order(theirs, below, layer, layers, below_only=True)[0])
    found = [_in_turns(theirs, start, layers, rounds) for start in (ours, below)]
    best = max(found, key=lambda tree: sum(_alike(theirs, tree, layer, layers).trace() for layer in range(layers)))
    return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), best, params)


def _in_turns(theirs: Any, ours: Any, layers: int, rounds: int) -> Any:
    for _ in range(rounds):
        moved = False
        for layer in range(layers):
            order, better = _order(theirs, ours, layer, layers)
            if better:
                ours, moved = _reordered(ours, layer, layers, order), True
        if not moved:
            break
    return ours


def _order(theirs: Any, ours: Any, layer: int, layers: int, *, below_only: bool = False) -> tuple[np.ndarray, bool]:
    """The best order of a layer's units while the others stay, and whether it is better than the present one."""
    from scipy.optimize import linear_sum_assignment  # a dependency of jax; its import takes time

    alike = _alike(theirs, ours, layer, layers, below_only=below_only)
    order = linear_sum_assignment(alike, maximize=True)[1]
    gain = alike[np.arange(len(order)), order].sum() - alike.trace()
    return order, bool(gain > 1e-9 * np.abs(alike).sum())  # ties must not swap units for ever


def _alike(theirs: Any, ours: Any, layer: int, layers: int, *, below_only: bool = False) -> np.ndarray:
    """Inner products of all that belongs to each of their units and to each of ours, `[F, F]`."""
    pairs = list(zip(_rows(theirs, layer, layers), _rows(ours, layer, layers), strict=True))
    total = np.zeros((len(pairs[0][0]),) * 2)
    for x, y in pairs[:-1] if below_only else pairs:
        total += x.astype(float) @ y.astype(float).T
    return total


def _following(layer: int, layers: int) -> str:
    return f"hidden_{layer + 1}" if layer + 1 < layers else "output"


def _vectors(params: Any, layer: int) -> list[tuple[str, str]]:
    """Names of what a layer has one number a unit of: its bias, those of its norm."""
    found = [(f"hidden_{layer}", name) for name in params[f"hidden_{layer}"] if name != "kernel"]
    return found + [(f"norm_{layer}", name) for name in params.get(f"norm_{layer}", {})]


def _rows(params: Any, layer: int, layers: int) -> list[np.ndarray]:
    """All that belongs to the units of a layer, as arrays `[F, ...]`: weights in, what it has for a unit, weights out."""
    single = [params[name][inside][:, None] for name, inside in _vectors(params, layer)]
    return [params[f"hidden_{layer}"]["kernel"].T, *single, params[_following(layer, layers)]["kernel"]]


def _reordered(params: Any, layer: int, layers: int, order: np.ndarray) -> Any:
    params = {name: dict(part) if isinstance(part, dict) else part for name, part in params.items()}
    for name, inside in _vectors(params, layer):
        params[name][inside] = params[name][inside][order]
    hidden, following = params[f"hidden_{layer}"], params[_following(layer, layers)]
    hidden["kernel"] = hidden["kernel"][:, order]
    following["kernel"] = following["kernel"][order]
    return params
