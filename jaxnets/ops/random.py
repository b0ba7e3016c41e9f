"""Random keys by name: which stream of randomness, and which step.

Keys are derived, never stored or passed along: the key of a stream at a step is a pure function of (seed, name, step), so
a run that is cut and resumed, or spread over other devices, draws the same numbers.
"""

import zlib

import jax
from jax import Array


def stream_key(seed: int, stream: str, step: Array | int) -> Array:
    """The typed key of the stream called `stream` at `step` (which may be traced)."""
    # crc32, because Python's own hash of a string differs from process to process.
    root = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
    return jax.random.fold_in(root, step)


def example_keys(key: Array, examples: int) -> Array:
    """One key for each position of the global batch, `[examples]`: independent of how the batch is spread."""
    return jax.vmap(lambda position: jax.random.fold_in(key, position))(jax.numpy.arange(examples))
