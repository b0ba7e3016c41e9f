"""A second name for the table of an embedding that is also the output layer, while gradients are summed over micro-batches.

Such a table has a gradient from the rows that were looked up and one from the output layer, and on several devices each is a
sum over the devices. A compiler moves that sum behind the loop over micro-batches if it is added to what the loop carries, and
leaves it inside where the two are added first. Differentiated by two names, each gradient has a sum of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxnets.core.types import SECOND_USE, Variables

TABLE = "embedding"


def tables(params: Any) -> dict[str, Any]:
    """The tables of the embeddings alone, or their shardings, in dicts with the paths of the parameters; {}: there is none."""
    found: dict[str, Any] = {}
    for name, value in params.items() if isinstance(params, Mapping) else ():
        inside = tables(value)
        if inside:
            found[name] = inside
        elif name == TABLE and isinstance(value, (jax.Array, NamedSharding, PartitionSpec)):
            found[name] = value
    return found


def joined(params: Any, more: Mapping[str, Any], join: Callable[[Any, Any], Any]) -> Any:
    """A tree like the parameters, each table joined with that of `more`, a tree as `tables` makes it."""
    if not isinstance(params, Mapping):
        return join(params, more)
    return {name: joined(value, more[name], join) if name in more else value for name, value in params.items()}


def without(model_state: Variables) -> Variables:
    """The collections of a module after a call that had the second names."""
    return {name: value for name, value in model_state.items() if name != SECOND_USE}
