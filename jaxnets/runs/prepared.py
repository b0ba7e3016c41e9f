"""Raw examples as the batch of a task."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from jaxnets.core.types import Batch
from jaxnets.data.feed import Transform
from jaxnets.runs.build import Parts


def prepared(parts: Parts, arrays: Mapping[str, np.ndarray], rows: np.ndarray | None = None) -> Batch:
    """Raw examples as a batch, not augmented.

    Args:
        parts: of the run.
        arrays: raw arrays by name, `[N, ...]`.
        rows: the numbers of the examples in their split, `[N]` int; None: 0 to N - 1.
    """
    transform = Transform(parts.dataset.preparation, parts.task.encode_targets)
    sent = {name: jnp.asarray(array) for name, array in transform.on_host(dict(arrays)).items()}
    count = len(sent["inputs"]) if rows is None else len(rows)
    index = np.arange(count) if rows is None else rows
    sent |= {"mask": jnp.ones(count, jnp.float32), "index": jnp.asarray(index, jnp.int32)}
    return transform.on_device(sent, jnp.zeros((), jnp.int32))
