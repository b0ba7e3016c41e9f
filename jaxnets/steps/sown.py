"""Losses that a module sows: `self.sow("losses", "name", value)` adds the value to the training loss."""

import jax
import jax.numpy as jnp

from jaxnets.core.types import Aux, Mean
from jaxnets.core.wide import wide

# The collection whose values are added to the loss.
COLLECTION = "losses"
# The metric under which their sum is logged.
METRIC = "sown_losses"


def with_sown(mean: Mean, aux: Aux) -> tuple[Mean, Aux]:
    """The loss of a task, plus the values that the module sowed in the collection "losses" in the same call.

    Each sown value counts with its mean over all of its dims, and these means are added up. With micro-batches the result is
    the mean over them, each with its share of the weight of the batch. `loss` is logged with it, and `sown_losses` is the sum
    alone. Evaluation sows nothing.
    """
    if COLLECTION not in aux.model_state:
        return mean, aux
    state = dict(aux.model_state)
    values = jax.tree.leaves(state.pop(COLLECTION))
    more = sum((wide(value).mean() for value in values), jnp.zeros(()))
    # A mean is divided by its weight in the end, so what is added to it is multiplied by the weight first.
    sown = Mean(more * mean.weight, mean.weight)
    return Mean(mean.sum + sown.sum, mean.weight), Aux({**aux.metrics, METRIC: sown}, state)
