"""Random keys by stream name and step.

Keys are derived, never stored or passed along: the key of a stream at a step is a pure function of (seed, name, step), so
a run that is interrupted and resumed, or sharded over other devices, draws the same numbers.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

# The entry of a batch in which the training step stores a key for each example.
KEYS = "example_keys"


def stream_key(seed: int, stream: str, step: Array | int) -> Array:
    """The typed key of the stream called `stream` at `step` (which may be traced)."""
    # crc32, because Python's own hash of a string differs from process to process.
    root = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
    return jax.random.fold_in(root, step)


def example_keys(key: Array, rows: Array | int) -> Array:
    """One key for each row number `[B]`, or for rows 0 to `rows` - 1 (an int); independent of the other rows."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(rows) if isinstance(rows, int) else rows)


def batch_keys(key: Array, batch: Mapping[str, Any], purpose: str, turn: Array | int = 0) -> Array:
    """One key for each example of a batch, `[B]`: a pure function of `key` and of the example's row number in its data.

    So equal examples draw different numbers, and an example draws the same numbers in any batch, micro-batch or device. (A row
    that occurs twice in a batch draws the same numbers twice; the orders of `jaxnets.data.order` have no such batches.)
    Without `index`, row numbers are the positions in the batch.

    Args:
        key: the key of the step. While training, the batch holds keys for its examples (see `with_keys`) and this one is
            unused, because it may differ between the micro-batches of a step.
        batch: with `index` `[B]`, or at least `mask` `[B]`.
        purpose: what is drawn; draws with different purposes are independent.
        turn: number of the draw, if there are several for one purpose.
    """
    keys = batch[KEYS] if KEYS in batch else example_keys(key, batch.get("index", len(batch["mask"])))
    tag = zlib.crc32(purpose.encode())
    return jax.vmap(lambda one: jax.random.fold_in(jax.random.fold_in(one, tag), turn))(keys)


def with_keys(batch: Mapping[str, Any], key: Array) -> dict[str, Any]:
    """The batch with a key for each example under `KEYS`; called before the batch is split into micro-batches."""
    return {**batch, KEYS: example_keys(key, batch.get("index", len(batch["mask"])))}


def named_keys(key: Array, names: Iterable[str]) -> dict[str, Array]:
    """A key for each name, from the name and `key` alone."""
    return {name: jax.random.fold_in(key, zlib.crc32(name.encode())) for name in names}


def hashed_uniform(shape: tuple[int, ...], *seeds: Array | int) -> Array:
    """Numbers in [0, 1), float32 `shape`, from their place in the array and the seeds; for the rounding of large arrays.

    A few integer operations a number, which the compiler joins with what uses them, where `jax.random` would write an array
    first. The position is that in the whole array, so the numbers do not depend on the sharding.
    """
    x = jnp.zeros(shape, jnp.uint32)
    for dim, size in enumerate(shape):
        x = x * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, dim)
    for seed in seeds:
        x = _scrambled(x) + _scrambled(jnp.asarray(seed, jnp.uint32) + jnp.uint32(1))
    return (_scrambled(x) >> 8).astype(jnp.float32) / 2**24


def _scrambled(x: Array) -> Array:
    """A bijection of uint32 in which every bit depends on every other (Murmur3's finaliser)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
