"""How tasks call their modules: random streams and variable collections.

A module may draw from streams of any name (`self.make_rng("noise")`). In training the common names have their own keys,
derived from the step's key by name; other names draw from the stream "params". In evaluation there are no streams, and a
module that draws there raises `UsageError`, since its outputs would depend on the batch size.

A collection that `init` makes is state and is carried from step to step. A collection that a module sows (`self.sow`) grows
at every call, so it is not state and is left out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.core.types import Variables
from jaxnets.ops.random import named_keys

# Streams that `self.has_rng` finds in training, besides "dropout"; `self.make_rng` draws from any.
STREAMS = (
    "params", "noise", "sample", "sampling", "latent", "gumbel", "drop_path", "droppath", "stochastic_depth", "mask",
    "masking", "augment", "random", "default",
)  # fmt: skip


def init_model(model: nn.Module, key: Array, *inputs: Any) -> Variables:
    """Initial variables of a module called as `model(*inputs, train=...)`: `{"params": ..., ...}`.

    Raises:
        UsageError: the shapes or dtypes of a collection change in a call.
    """
    variables = dict(_typed(model.init({"params": key, "dropout": key}, *inputs, train=False)))
    kept = [name for name in variables if name != "params"]
    if not kept:
        return variables

    def called() -> Variables:
        call: Any = model.apply
        return dict(_typed(call(variables, *inputs, train=True, rngs=_streams(key), mutable=kept)[1]))

    after = _explained(model, lambda: jax.eval_shape(called))
    for name in kept:
        before = variables[name]
        if _paths(after.get(name, {})) != _paths(before):
            del variables[name]  # a sown collection
        elif (now := _signature(after[name])) != _signature(before):
            raise UsageError(
                f"{type(model).__name__} makes the collection {name!r} with {_signature(before)}, and has {now} after a "
                f"call; a collection must keep its shapes and dtypes"
            )
    return variables


def call_model(
    model: nn.Module,
    variables: Variables,
    *inputs: Any,
    key: Array | None,
    sown: Sequence[str] = (),
    **options: Any,
) -> tuple[Any, Variables]:
    """Call a module as `model(*inputs, train=...)`, with `train=True` if there is a key.

    Args:
        model: the module.
        variables: its variables.
        inputs: its arguments.
        key: random key of this call; None in evaluation.
        sown: collections that the module fills at each call; they are returned too.
        options: further arguments of `model.apply`, e.g. `method`.

    Returns:
        The module's result, and its collections other than params after the call.
    """
    others = {name: value for name, value in variables.items() if name != "params"}
    rngs, kept = ({}, []) if key is None else (_streams(key), list(others))
    call: Any = model.apply  # its return type depends on `mutable`
    outputs, new = _explained(
        model,
        lambda: call(variables, *inputs, train=key is not None, rngs=rngs, mutable=[*kept, *sown], **options),
    )
    return outputs, {**others, **_typed(new)}


def _streams(key: Array) -> dict[str, Array]:
    """The random streams of a training call."""
    return {**named_keys(key, STREAMS), "dropout": key}


def _typed(tree: Any) -> Any:
    """The tree with strong dtypes: Python numbers and weakly typed arrays would change dtype in a sum with another array."""

    def typed(leaf: Any) -> Any:
        leaf = jax.numpy.asarray(leaf)
        return jax.lax.convert_element_type(leaf, leaf.dtype) if getattr(leaf, "weak_type", False) else leaf

    return jax.tree.map(typed, tree)


def _explained(model: nn.Module, call: Callable[[], Any]) -> Any:
    """Run a call of a module; Flax's errors about streams and collections become `UsageError` with the remedy."""
    kind = type(model).__name__
    try:
        return call()
    except flax.errors.InvalidRngError as error:
        raise UsageError(
            f"{kind} draws random numbers in evaluation ({_reason(error)}); its outputs there must not depend on the batch, "
            f"so draw only if `train` is true"
        ) from error
    except (flax.errors.ModifyScopeVariableError, flax.errors.ScopeCollectionNotFound) as error:
        raise UsageError(
            f"{kind} creates or changes a variable where it may not ({_reason(error)}); create it in every call, whatever "
            f"`train` is, and change it only if `train` is true"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).split(" (http")[0]


def _paths(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _signature(tree: Any) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return ", ".join(
        f"{jax.tree_util.keystr(path, simple=True, separator='/')} {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    )
