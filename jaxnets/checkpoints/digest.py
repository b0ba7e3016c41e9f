"""A digest of every leaf of a state: the same for the same bits, on any mesh.

Each element's bits are mixed with its position and the results are added modulo 2^32, in two lanes. Additions commute, so the
digest does not depend on the sharding; the sum is computed on the devices of the array, without a copy. For a given position
the mixing is a bijection, so one changed element always changes the sum. It detects accidental damage, not deliberate changes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxnets.parallel.collectives import one_at_a_time
from jaxnets.parallel.partition import in_device_memory, path_name

# Odd multipliers of two mixing functions (Murmur3's finaliser and a relative, from Wellons' search).
LANES = ((0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35), (0x7FEB352D, 0x846CA68B, 0xA2D39C2F))


def leaf_paths(tree: Any) -> dict[str, Any]:
    """Leaves by path, `params/hidden_0/kernel`, in the tree's own order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def start_digests(tree: Any) -> dict[str, Array]:
    """Start computing the digest of every leaf; the tree may be donated afterwards. See `read_digests`.

    It is one program for the whole tree: programs of one leaf each would run their collectives at the same time.
    """
    return one_at_a_time(_digests(leaf_paths(tree)))


def read_digests(digests: Mapping[str, Array]) -> dict[str, str]:
    """Sixteen hex digits for each leaf; waits for the device."""
    return {path: bytes(np.asarray(lanes).astype(">u4")).hex() for path, lanes in jax.device_get(dict(digests)).items()}


@jax.jit
def _digests(leaves: dict[str, Array]) -> dict[str, Array]:
    return {path: _digest(leaf) for path, leaf in leaves.items()}


def _digest(array: Array) -> Array:
    """`[2]` uint32."""
    words = _words(in_device_memory(array))
    position = jnp.zeros(words.shape, jnp.uint32)
    for dim, size in enumerate(words.shape):
        position = position * jnp.uint32(size) + lax.broadcasted_iota(jnp.uint32, words.shape, dim)
    return jnp.stack([_mix(words, position, *lane).sum(dtype=jnp.uint32) for lane in LANES])


def _words(array: Array) -> Array:
    """The bits of an array as uint32; 64-bit elements become two words in a last dim."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.stack([array.real, array.imag], axis=-1)
    if array.dtype == jnp.bool_ or array.dtype.itemsize < 1:
        array = array.astype(jnp.uint8)
    bits = lax.bitcast_convert_type(array, {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32))
    return bits.astype(jnp.uint32)


def _mix(words: Array, position: Array, stride: int, first: int, second: int) -> Array:
    x = words + (position + jnp.uint32(1)) * jnp.uint32(stride)
    x = (x ^ (x >> 16)) * jnp.uint32(first)
    x = (x ^ (x >> 13)) * jnp.uint32(second)
    return x ^ (x >> 16)
