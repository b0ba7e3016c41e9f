"""The format in which losses, sums and other sensitive parts of a model are computed."""

from typing import Any

import jax.numpy as jnp
from jax import Array


def wide(array: Any) -> Array:
    """The numbers as float32, for any compute dtype of the model; float64 stays float64 (under `jax.enable_x64(True)`).

    So a model and its loss compute in float64 throughout where variables and inputs are float64. Finite differences then agree
    with derivatives to many digits.
    """
    return jnp.asarray(array, jnp.float64 if jnp.result_type(array) == jnp.float64 else jnp.float32)
