"""Adam whose moments are stored in 8 bits or in bfloat16, instead of float32.

8 bits: Dettmers et al. (2022), "8-bit optimizers via block-wise quantization". Each block of up to 256 numbers has a scale,
its largest magnitude, and each number a code of 8 bits. As in the paper the codes are not evenly spaced, and small arrays stay
in float32. Two things differ. The codes are evenly spaced in the logarithm, so that every number has the same relative error.
And rounding is random and unbiased: with b2 = 0.999 a second moment changes by about a thousandth a step, less than half the
distance between two codes, so that rounding to the nearest would keep it where it is.

Codes have the shape of their parameter and a path that ends in its path, so that rules for sharding apply to both.

Shapes: `...` an array of any shape, `*L` its dims that are not cut, `K` blocks, `S` numbers in a block.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnets.ops.random import hashed_uniform

# Numbers in a block, at most; at least a quarter of it, where the array has so many.
BLOCK = 256
# Arrays with fewer numbers stay as they are (the paper, section 2.2).
SMALLEST = 4096


@dataclasses.dataclass(frozen=True)
class Code:
    """How a moment is stored: 0, or `scale * 2^(-octaves * (levels - code) / (levels - 1))`, with a sign in int8."""

    dtype: Any
    """int8 or uint8."""
    levels: int
    """The largest code, that of the scale itself."""
    octaves: float
    """How many times the smallest number above 0 is smaller than the scale, as a power of 2."""
    keeps: bool
    """Whether a number above 0 never becomes 0: it would divide a step."""

    @property
    def step(self) -> float:
        """Distance between neighbours, in octaves."""
        return self.octaves / (self.levels - 1)


FIRST = Code(jnp.int8, 127, 20.0, keeps=False)  # down to 1e-6 of the scale; neighbours differ by 12 %
SECOND = Code(jnp.uint8, 255, 40.0, keeps=True)  # down to 1e-12, the squares of the same; neighbours differ by 12 %


class StoredAdamState(NamedTuple):
    """The state of `stored_adam`."""

    count: Array  # type: ignore[assignment]  # a tuple has a method of this name, which optax's states replace as well
    """Updates so far, int32."""
    mu: Any
    """First moments: codes int8 or bfloat16, each in the shape of its parameter."""
    nu: Any
    """Second moments: codes uint8 or bfloat16."""
    mu_scales: Any
    """`{"block_scale": [*L, K] float32}` in the place of each array of codes, and `{}` in that of any other."""
    nu_scales: Any
    """The same for the second moments."""


def stored_adam(b1: float, b2: float, eps: float, kind: Literal["bfloat16", "8-bit"]) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with its moments stored as `kind`; an update itself is computed in float32.

    Arrays with fewer than `SMALLEST` numbers, and those that are not float32, are stored as they are. The random numbers by
    which moments are rounded depend on the number of the update and the place in the array alone.
    """
    adam = optax.scale_by_adam(b1, b2, eps)

    def store(mu: Any, nu: Any, count: Array) -> StoredAdamState:
        first, first_scales = _stored(mu, kind, FIRST, count)
        second, second_scales = _stored(nu, kind, SECOND, count)
        return StoredAdamState(count, first, second, first_scales, second_scales)

    def init(params: Any) -> StoredAdamState:
        shapes = jax.eval_shape(store, params, params, jnp.zeros((), jnp.int32))
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)

    def update(gradients: Any, state: StoredAdamState, params: Any = None) -> tuple[Any, StoredAdamState]:
        mu, nu = _read(state.mu, state.mu_scales, FIRST), _read(state.nu, state.nu_scales, SECOND)
        updates, after = adam.update(gradients, optax.ScaleByAdamState(state.count, mu, nu), params)
        return updates, store(after.mu, after.nu, after.count)

    return optax.GradientTransformation(init, update)


def _stored(moments: Any, kind: str, code: Code, count: Array) -> tuple[Any, Any]:
    """Codes and scales of a tree of moments."""
    leaves, tree = jax.tree.flatten(moments)
    codes: list[Array] = []
    scales: list[dict[str, Array]] = []
    for index, leaf in enumerate(leaves):
        scale: dict[str, Array] = {}
        if leaf.size >= SMALLEST and leaf.dtype == jnp.float32:
            seeds = (count, 2 * index + code.keeps)
            if kind == "bfloat16":
                leaf = to_bfloat16(leaf, hashed_uniform(leaf.shape, *seeds))
            else:
                leaf, scale["block_scale"] = quantise(leaf, code, hashed_uniform(block_shape(leaf.shape), *seeds))
        codes.append(leaf)
        scales.append(scale)
    return jax.tree.unflatten(tree, codes), jax.tree.unflatten(tree, scales)


def _read(codes: Any, scales: Any, code: Code) -> Any:
    """The moments in float32."""

    def read(stored: Array, scale: dict[str, Array]) -> Array:
        if scale:
            return dequantise(stored, scale["block_scale"], code)
        return stored.astype(jnp.float32) if stored.dtype == jnp.bfloat16 else stored

    return jax.tree.map(read, codes, scales)


def block_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """`(*L, K, S)`: how an array is cut, from its shape alone, so that a state fits any number of devices.

    The last dims are cut together: as few of them as hold `BLOCK / 4` numbers. `S` is chosen so that an eighth of what is cut
    (or a quarter, a half, all of it) has whole blocks, where that can be: then devices that share the array need not
    exchange anything. Otherwise the last block is filled up with zeros.
    """
    dims, run = len(shape), 1
    while dims and run < BLOCK // 4:
        dims -= 1
        run *= shape[dims]
    sizes = range(BLOCK, BLOCK // 4 - 1, -1)
    size = next((size for parts in (8, 4, 2, 1) for size in sizes if run % (parts * size) == 0), BLOCK)
    return *shape[:dims], -(-run // size), size


def quantise(x: Array, code: Code, noise: Array) -> tuple[Array, Array]:
    """Codes of a float32 array and the scales of its blocks; on average over the noise, codes stand for `x` itself.

    Args:
        x: `[...]` float32; at least 0 for a code without signs.
        code: which numbers the codes stand for.
        noise: `block_shape(x.shape)` in [0, 1). A number between two codes takes the upper one where the noise is below its
            share of the way to it.

    Returns:
        codes `[...]` and scales `[*L, K]` float32. The scale of a block with a number that is not finite is infinite.
    """
    shape = block_shape(x.shape)
    lead = shape[:-2]
    flat = x.reshape(*lead, -1)
    run = flat.shape[-1]
    blocks = jnp.pad(flat, [(0, 0)] * len(lead) + [(0, shape[-2] * shape[-1] - run)]).reshape(shape)
    # The maximum of a reduction may leave out what is no number; infinity it keeps.
    scales = jnp.where(jnp.isnan(blocks), jnp.inf, jnp.abs(blocks)).max(axis=-1)
    ratio = jnp.abs(blocks) / jnp.where(scales > 0, scales, 1.0)[..., None]
    place = code.levels + jnp.log2(ratio) / code.step
    low = jnp.clip(jnp.floor(place), 0, code.levels)
    # The share of the way to the next code: above the smallest, and from 0 to the smallest.
    between = (jnp.exp2((place - low) * code.step) - 1) / (2**code.step - 1)
    share = jnp.where(low > 0, between, ratio * 2.0**code.octaves)
    magnitude = jnp.minimum(low + (noise < share), code.levels)
    if code.keeps:
        magnitude = jnp.where(blocks > 0, jnp.maximum(magnitude, 1), 0)
    codes = jnp.where(blocks < 0, -magnitude, magnitude).astype(code.dtype)
    return codes.reshape(*lead, -1)[..., :run].reshape(x.shape), scales


def dequantise(codes: Array, scales: Array, code: Code) -> Array:
    """The float32 numbers `[...]` that codes `[...]` with scales `[*L, K]` stand for."""
    shape = block_shape(codes.shape)
    lead, run = shape[:-2], math.prod(codes.shape[len(shape) - 2 :])
    each = jnp.broadcast_to(scales[..., None], shape).reshape(*lead, -1)[..., :run].reshape(codes.shape)
    number = codes.astype(jnp.float32)
    fraction = jnp.sign(number) * jnp.exp2((jnp.abs(number) - code.levels) * code.step)
    value = each * fraction
    return jnp.where(codes > 0, jnp.maximum(value, jnp.finfo(jnp.float32).tiny), value) if code.keeps else value


def to_bfloat16(x: Array, noise: Array) -> Array:
    """`x` `[...]` float32 in bfloat16, rounded up or down so that the result is `x` on average; `noise` `[...]` in [0, 1)."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + (noise * 2**16).astype(jnp.uint32)
    rounded = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))
