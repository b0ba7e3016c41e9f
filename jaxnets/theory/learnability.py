"""That a network can represent a function does not mean that training finds it: XOR from many seeds; lazy and rich training.

Shapes: `S` seeds, `B` batch, `N` inputs.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnets.models.mlp import MLP
from jaxnets.theory.boolean import bits


def xor_learned(units: int, *, seeds: int = 200, steps: int = 2000, learning_rate: float = 0.05) -> float:
    """The share of seeds from which a tanh network of 2 inputs and one hidden layer learns XOR by Adam.

    Two hidden units can represent it. From most seeds they do not learn it: training ends at a stationary point with two or
    three right answers. Each further unit makes that rarer.

    Args:
        units: hidden units, at least 1.
        seeds: initialisations; all are trained at once, by one compiled program.
        steps: of full batches.
        learning_rate: Adam's.
    """
    if units < 1 or seeds < 1 or steps < 1:
        raise ValueError(f"units, seeds and steps are at least 1, got {units}, {seeds}, {steps}")
    return float(_learn_xor(units, seeds, steps, learning_rate).mean())


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _learn_xor(units: int, seeds: int, steps: int, learning_rate: float) -> Array:
    """Which seeds learn it, bool `[S]`."""
    model = MLP(widths=(units,), outputs=1, activation="tanh")
    x, y = jnp.asarray(bits(2), jnp.float32), jnp.array([0.0, 1, 1, 0])
    rule = optax.adam(learning_rate)

    def loss(params: Any) -> Array:
        logits: Any = model.apply({"params": params}, x)
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], y).mean()

    def learn(key: Array) -> Array:
        params = model.init(key, x)["params"]

        def update(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            updates, state = rule.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(update, (params, rule.init(params)), length=steps)
        logits: Any = model.apply({"params": params}, x)
        return ((logits[:, 0] > 0) == (y > 0)).all()

    return jax.vmap(learn)(jax.random.split(jax.random.key(0), seeds))


class Trained(NamedTuple):
    """The result of a training."""

    moved: float
    """The distance of the weights from their initial values, relative to the norm of these."""
    first: float
    """The mean squared error at the start."""
    last: float
    """The mean squared error at the end."""


def scaled_training(scale: float, *, units: int = 64, steps: int = 2000, rate: float = 0.03, seed: int = 0) -> Trained:
    """Train `scale * (f(w) - f(w0))` on eight points by gradient descent (Chizat, Oyallon and Bach 2019).

    With a large scale a tiny change of the weights is enough: the network stays near its linearisation at the start, and
        learns no
    features (lazy). With a small one the weights have to move (rich). The steps are `rate / scale^2`, so both learn equally
    fast in the lazy limit. The distance moved falls with `1 / scale`.

    Args:
        scale: alpha, above 0.
        units: tanh units in the hidden layer.
        steps: of gradient descent.
        rate: its step size, times `scale^2`.
        seed: of the weights and the targets.
    """
    if not scale > 0:
        raise ValueError(f"scale is above 0, got {scale}")
    rng = np.random.default_rng(seed)
    x, y = jnp.asarray(rng.normal(size=(8, 2)), jnp.float32), jnp.asarray(rng.normal(size=8), jnp.float32)
    model = MLP(widths=(units,), outputs=1, activation="tanh")
    start = model.init(jax.random.key(seed), x)["params"]
    return Trained(*map(float, _train_scaled(model, steps, start, x, y, scale, rate)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _train_scaled(model: MLP, steps: int, start: Any, x: Array, y: Array, scale: float, rate: float) -> Trained:
    def outputs(params: Any) -> Array:
        found: Any = model.apply({"params": params}, x)
        return found[:, 0]

    def loss(params: Any) -> Any:
        return jnp.square(scale * (outputs(params) - outputs(start)) - y).mean()

    def update(params: Any, _: None) -> tuple[Any, None]:
        return jax.tree.map(lambda p, g: p - rate / scale**2 * g, params, jax.grad(loss)(params)), None

    end, _ = jax.lax.scan(update, start, length=steps)
    moved: Any = optax.tree.norm(jax.tree.map(jnp.subtract, end, start)) / optax.tree.norm(start)
    return Trained(moved, loss(start), loss(end))
