"""How every task calls its modules: their random streams and the collections that they keep.

A module may draw from streams of any name (`self.make_rng("noise")`). While training, the common names have keys of their own,
derived from the step's key by name, and any other name draws from the stream "params". In evaluation there are no streams: a
module that draws there would answer differently for another batch size, and is refused.

A collection that `init` makes is state: it goes from step to step. What a module sows (`self.sow`) is no state, since it grows
at every call; such a collection is left out.
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

# Streams that `self.has_rng` finds while training, beside "dropout"; `self.make_rng` draws from any.
STREAMS = (
    "params", "noise", "sample", "sampling", "latent", "gumbel", "drop_path", "droppath", "stochastic_depth", "mask",
    "masking", "augment", "random", "default",
)  # fmt: skip


def init_model(model: nn.Module, key: Array, *inputs: Any) -> Variables:
    """Fresh variables of a module called as `model(*inputs, train=...)`: `{"params": ..., ...}`.

    Raises:
        UsageError: a collection that it makes has other shapes after a call.
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
            del variables[name]  # it was sown
        elif (now := _signature(after[name])) != _signature(before):
            raise UsageError(
                f"{type(model).__name__} makes the collection {name!r} with {_signature(before)}, and leaves {now} after a "
                f"call; what a module keeps has the same shapes and dtypes at every step"
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
    """Call a module as `model(*inputs, train=...)`: in training where there is a key, else in evaluation.

    Args:
        model: the module.
        variables: its own.
        inputs: what it is called with.
        key: of this call's draws.
        sown: collections that it sows into at each call; they are returned as well.
        options: of `model.apply`: `method`, say.

    Returns:
        What it returns, and its other collections after the call.
    """
    others = {name: value for name, value in variables.items() if name != "params"}
    rngs, kept = ({}, []) if key is None else (_streams(key), list(others))
    call: Any = model.apply  # what it returns depends on `mutable`
    outputs, new = _explained(
        model,
        lambda: call(variables, *inputs, train=key is not None, rngs=rngs, mutable=[*kept, *sown], **options),
    )
    return outputs, {**others, **_typed(new)}


def _streams(key: Array) -> dict[str, Array]:
    """The streams of a call in training."""
    return {**named_keys(key, STREAMS), "dropout": key}


def _typed(tree: Any) -> Any:
    """Python numbers, and arrays made from them, with a dtype of their own: one that no sum with another array changes."""

    def typed(leaf: Any) -> Any:
        leaf = jax.numpy.asarray(leaf)
        return jax.lax.convert_element_type(leaf, leaf.dtype) if getattr(leaf, "weak_type", False) else leaf

    return jax.tree.map(typed, tree)


def _explained(model: nn.Module, call: Callable[[], Any]) -> Any:
    """Call a module; what Flax refuses because of how modules are called here becomes one message that says it."""
    kind = type(model).__name__
    try:
        return call()
    except flax.errors.InvalidRngError as error:
        raise UsageError(
            f"{kind} draws random numbers in evaluation ({_reason(error)}); there it must give the same answer in any batch, "
            f"so draw only where `train` is true"
        ) from error
    except (flax.errors.ModifyScopeVariableError, flax.errors.ScopeCollectionNotFound) as error:
        raise UsageError(
            f"{kind} makes or changes a variable where it cannot ({_reason(error)}); make it in every call, whatever `train` "
            f"is, and change it only where `train` is true"
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
