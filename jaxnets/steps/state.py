"""The training state: everything that changes from step to step, as one plain tree of arrays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.types import Variables
from jaxnets.optim.reading import evaluation_params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Arrays only, no functions: it can be sharded, saved, compared and counted like any other tree."""

    step: Array
    """Updates done so far, int32; checkpoint k holds the state after k updates, and the next batch is number k."""
    params: Any
    """The model's parameters, float32."""
    model_state: Variables
    """The module's other collections (batch statistics); {} if it has none."""
    opt_state: Any
    """The optimizer's state."""
    average: Any
    """Averaged parameters and model state, {"params": ..., **model_state}; () without averaging."""
    guard: dict[str, Array]
    """Counters and scales of the guards, float32 and int32 scalars."""

    @property
    def variables(self) -> Variables:
        """The current variables for the model's `apply`."""
        return {"params": self.params, **self.model_state}

    @property
    def best_variables(self) -> Variables:
        """The variables for evaluation: the averaged ones if there are some, else those that the optimizer selects."""
        if jax.tree.leaves(self.average):
            return self.average
        return {"params": evaluation_params(self.opt_state, self.params), **self.model_state}


def strongly_typed(tree: Any) -> Any:
    """The tree with strong dtypes: the dtype of a weakly typed array (from a Python number) changes in a sum."""

    def typed(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return jax.lax.convert_element_type(leaf, leaf.dtype) if getattr(leaf, "weak_type", False) else leaf

    return jax.tree.map(typed, tree)
