"""The effect of flipped bits in the weights of a network, as by a memory fault."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.core.errors import UsageError
from jaxnets.diagnose.trees import size


def flipped(params: Any, bit: int, *, count: int = 1, seed: int = 0) -> Any:
    """The parameters with one bit changed in each of some random numbers.

    Args:
        params: a tree of float arrays.
        bit: from 0, the last of the fraction. In float32: 0 to 22 the fraction, 23 to 30 the exponent, 31 the sign.
        count: how many numbers, chosen among all without repetition.
        seed: of the choice; the same numbers for every bit.

    Raises:
        UsageError: there are not so many numbers or bits, or a leaf is not of floats.
    """
    total = size(params)
    if not 0 <= count <= total:
        raise UsageError(f"count is from 0 to the {total:,} numbers of the parameters, got {count}")
    chosen = np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    start, changed = 0, []
    leaves, tree = jax.tree.flatten(params)
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise UsageError(f"parameters are real numbers, and one is {leaf.dtype}")
        width = 8 * leaf.dtype.itemsize
        if not 0 <= bit < width:
            raise UsageError(f"bit is from 0 to {width - 1} in {leaf.dtype}, got {bit}")
        array = np.array(leaf)
        raw = array.reshape(-1).view(f"uint{width}")
        inside = chosen[(chosen >= start) & (chosen < start + array.size)] - start
        raw[inside] ^= raw.dtype.type(1 << bit)
        changed.append(jax.device_put(raw.view(array.dtype).reshape(array.shape), getattr(leaf, "sharding", None)))
        start += array.size
    return jax.tree.unflatten(tree, changed)


def flip_curve(
    score: Callable[[Any], float],
    params: Any,
    bits: Sequence[int],
    *,
    count: int = 1,
    repeats: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """The score of the network with flipped bits, `[bits, repeats]`; see `flipped` for the arguments.

    Args:
        score: parameters to a number, such as the accuracy on test examples. Weights may be infinite or NaN.
        params: of the trained network.
        bits: which bits, each by itself.
        count: numbers that are hit at once.
        repeats: random choices of these, the same for every bit.
        seed: of the first choice.
    """
    if repeats < 1:
        raise UsageError(f"repeats is at least 1, got {repeats}")
    found = [
        [float(score(flipped(params, bit, count=count, seed=seed + number))) for number in range(repeats)]
        for bit in bits
    ]
    return np.asarray(found)
