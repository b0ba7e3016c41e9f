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
