"""The training state: everything that changes from step to step, as one plain tree of arrays."""

import dataclasses
from typing import Any

import jax
from jax import Array

from jaxnets.core.types import Variables


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Arrays only, no functions: it can be sharded, saved, compared and counted like any other tree."""

    step: Array
    """Updates done so far, int32; checkpoint k holds the state after k updates, and the next batch is number k."""
    params: Any
    """The model's parameters, float32."""
    model_state: Variables
    """The module's other collections (batch statistics); {} where it has none."""
    opt_state: Any
    """The optimizer's state."""
    average: Any
    """Averaged parameters and model state, {"params": ..., **model_state}; () without averaging."""
    guard: dict[str, Array]
    """Counters and scales of the guards, float32 and int32 scalars."""

    @property
    def variables(self) -> Variables:
        """What the model's `apply` takes, as it stands now."""
        return {"params": self.params, **self.model_state}

    @property
    def best_variables(self) -> Variables:
        """The averaged variables where there is an average, else the current ones: what evaluation uses."""
        return self.average if jax.tree.leaves(self.average) else self.variables
