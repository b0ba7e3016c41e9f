"""The outputs of a layer, and the input that maximises a unit."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxnets.core.errors import UsageError, did_you_mean
from jaxnets.diagnose.attribution import Apply, Output, score_of


def layer_output(model: nn.Module, layer: str, **call: Any) -> Apply:
    """A function from `(variables, inputs)` to the outputs of a layer of a module, for the functions that take `apply`.

    Args:
        model: a Linen module.
        layer: path of the layer, as in the parameters (`hidden_0`, `block_1/query`). Of several calls the last one counts.
        **call: further arguments of the module's call, such as `train=False`.

    Raises:
        UsageError: from the function: no layer of this path is called.
    """

    def apply(variables: Any, inputs: Any) -> Array:
        seen: list[str] = []

        def wanted(module: nn.Module, method: str) -> bool:
            name = "/".join(module.path)
            seen.extend([name] if name and method == "__call__" else [])
            return method == "__call__" and name == layer

        _, kept = model.apply(variables, inputs, capture_intermediates=wanted, mutable=["intermediates"], **call)
        found = kept.get("intermediates", {})
        for part in (*layer.split("/"), "__call__"):
            found = found.get(part, {})
        if not found:
            names = list(dict.fromkeys(seen))
            raise UsageError(f"the model calls no layer {layer!r}. {did_you_mean(layer, names)}")
        return jnp.asarray(found[-1])

    return apply


def maximised_input(
    apply: Apply,
    variables: Any,
    start: Any,
    output: Output = None,
    *,
    steps: int = 200,
    learning_rate: float = 0.05,
    l2: float = 0.01,
    variation: float = 0.0,
    shift: int = 0,
    low: float | None = None,
    high: float | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Inputs that make an output large, by gradient ascent (Erhan et al. 2009; regularised as by Mahendran and Vedaldi 2015).

    Adam ascends `score - l2 / 2 * sum(x ** 2) - variation * sum((x - next x) ** 2)`, each example for itself.

    Args:
        apply: the model, or a layer of it by `layer_output`.
        variables: of the model.
        start: real, `[N, ...]`, as the model takes them; zeros, noise or examples.
        output: see `score_of`; an array `[N]` gives one input for each of N outputs.
        steps: of Adam, at least 1.
        learning_rate: of Adam.
        l2: draws the input to 0, the mean of inputs that are standardised.
        variation: draws neighbours in the first two dims of an example together: the smooth part of images `[H, W, C]`.
        shift: in each step the input is moved around by up to so many places in these two dims, so that no detail depends on
        its position. low: the smallest number of an input. high: the largest one. seed: of the shifts.

    Returns:
        The inputs after the last step, of the shape of `start`.
    """
    start = jnp.asarray(start)
    if not jnp.issubdtype(start.dtype, jnp.floating) or steps < 1:
        raise UsageError(f"start is real and steps at least 1; got {start.dtype} and {steps}")
    if (variation or shift) and start.ndim < 3:
        raise UsageError(f"variation and shift are for inputs [N, H, W, ...]; start has the shape {list(start.shape)}")
    score, adam = score_of(apply, variables, start, output), optax.adam(learning_rate)

    def missed(x: Array, variables: Any, move: Array) -> Array:
        given = jnp.roll(x, move, axis=(1, 2)) if shift else x
        rough = sum(jnp.square(jnp.diff(x, axis=axis)).sum() for axis in (1, 2)) if variation else 0.0
        return l2 / 2 * jnp.square(x).sum() + variation * rough - score(variables, given).sum()

    @jax.jit
    def ascended(variables: Any, start: Array, moves: Array) -> Array:
        def one(carry: tuple[Array, Any], move: Array) -> tuple[tuple[Array, Any], None]:
            x, state = carry
            update, state = adam.update(jax.grad(missed)(x, variables, move), state)
            x = x + update
            return (x if low is None and high is None else jnp.clip(x, low, high), state), None

        return jax.lax.scan(one, (start, adam.init(start)), moves)[0][0]

    moves = np.random.default_rng(seed).integers(-shift, shift + 1, (steps, 2))
    return np.asarray(ascended(variables, start, jnp.asarray(moves, jnp.int32)))
