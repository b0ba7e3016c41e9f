"""Random keys by name: which stream of randomness, and which step.

Keys are derived, never stored or passed along: the key of a stream at a step is a pure function of (seed, name, step), so
a run that is cut and resumed, or spread over other devices, draws the same numbers.
"""

import zlib

import jax
import jax.numpy as jnp
from jax import Array


def stream_key(seed: int, stream: str, step: Array | int) -> Array:
    """The typed key of the stream called `stream` at `step` (which may be traced)."""
    # crc32, because Python's own hash of a string differs from process to process.
    root = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
    return jax.random.fold_in(root, step)


def example_keys(key: Array, examples: int) -> Array:
    """One key for each position of the global batch, `[examples]`: independent of how the batch is spread."""
    return jax.vmap(lambda position: jax.random.fold_in(key, position))(jax.numpy.arange(examples))


def content_keys(key: Array, x: Array) -> Array:
    """One key for each example, `[B]`, from its own content `[B, ...]`: the same in any batch, at any place, on any mesh.

    For evaluations that need noise. Examples that are equal bit for bit share a key.
    """
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32).reshape(x.shape[0], -1)
    # Each word is mixed with its place, all of it, as images differ in few; then sums of integers are exact in any order.
    places = _mixed(jnp.arange(bits.shape[1], dtype=jnp.uint32))
    digests = _mixed(bits ^ places[None, :]).sum(axis=1, dtype=jnp.uint32)
    return jax.vmap(lambda digest: jax.random.fold_in(key, digest))(digests)


def _mixed(words: Array) -> Array:
    """Words of 32 bits, one to one, each bit of the result hanging on all (the finaliser of MurmurHash3, Appleby 2011)."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
