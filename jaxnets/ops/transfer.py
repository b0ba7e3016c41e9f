"""Host arrays to devices, some of which may belong to other processes."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding


def to_devices(tree: Any, sharding: Sharding) -> Any:
    """The arrays of a tree under a sharding; with several processes, each holds all arrays and transfers its own shards."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def share(array: Any) -> jax.Array:
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    with jax.transfer_guard("allow"):  # requested explicitly, though jax counts it as implicit
        return jax.tree.map(share, tree)


def own_positions(sharding: Sharding, shape: tuple[int, ...], *, dim: int) -> np.ndarray | None:
    """Positions along a dim that this process's devices hold of an array, in rising order; None if one process holds all."""
    if sharding.is_fully_addressable:
        return None
    held = sharding.addressable_devices_indices_map(shape).values()
    return np.unique(np.concatenate([np.arange(shape[dim])[index[dim]] for index in held if index is not None]))


def own_to_devices(tree: Any, sharding: Sharding, own: np.ndarray | None, shape: tuple[int, int]) -> Any:
    """Like `to_devices`, for arrays `[K, len(own), ...]` that hold only the positions of this process along their second dim.

    Args:
        tree: the arrays; whole ones if `own` is None.
        sharding: of the whole arrays, which have the shape `[*shape, ...]`.
        own: the result of `own_positions`.
        shape: the first two dims of the whole arrays.
    """
    if own is None:
        return to_devices(tree, sharding)

    def share(array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            first, second, *rest = index
            return array[(first, np.searchsorted(own, np.arange(shape[1])[second]), *rest)]

        return jax.make_array_from_callback((*shape, *array.shape[2:]), sharding, part)

    with jax.transfer_guard("allow"):
        return jax.tree.map(share, tree)
