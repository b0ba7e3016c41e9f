"""How tasks call their modules: random streams and variable collections.

A module may draw from streams of any name (`self.make_rng("noise")`). In training the common names have their own keys,
derived from the step's key by name; other names draw from the stream "params". In evaluation there are no streams, and a
module that draws there raises `UsageError`, since its outputs would depend on the batch size.

A collection that `init` makes is state and is carried from step to step. A collection that a module sows (`self.sow`) grows
at every call, so it is not state and is left out.
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.core.types import Variables
from jaxnets.ops.random import named_keys
from jaxnets.steps.state import strongly_typed

# Streams that `self.has_rng` finds in training, besides "dropout"; `self.make_rng` draws from any.
STREAMS = (
    "params", "noise", "sample", "sampling", "latent", "gumbel", "drop_path", "droppath", "stochastic_depth", "mask",
    "masking", "augment", "random", "default",
)  # fmt: skip


def init_model(model: nn.Module, key: Array, *inputs: Any) -> Variables:
    """Initial variables of a module called as `model(*inputs)`, in evaluation: `{"params": ..., ...}`.

    Raises:
        UsageError: the shapes or dtypes of a collection change in a call.
    """
    module, mode = in_mode(model, train=False)
    initialise: Any = module.init
    # Boxes of `nn.with_partitioning` are taken off, and their axes are not looked for in the mesh: where arrays go is decided
    # by `parallel/partition.py`.
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        variables = dict(strongly_typed(nn.unbox(initialise({"params": key, "dropout": key}, *inputs, **mode))))
    kept = [name for name in variables if name != "params"]
    if not kept:
        return variables

    def called() -> Variables:
        module, mode = in_mode(model, train=True)
        call: Any = module.apply
        return dict(strongly_typed(nn.unbox(call(variables, *inputs, **mode, rngs=_streams(key), mutable=kept)[1])))

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
    """Call a module as `model(*inputs)`: in training if there is a key, else in evaluation (see `in_mode`).

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
    module, mode = in_mode(model, train=key is not None, method=options.get("method"))
    call: Any = module.apply  # its return type depends on `mutable`
    outputs, new = _explained(
        model,
        lambda: call(variables, *inputs, **mode, rngs=rngs, mutable=[*kept, *sown], **options),
    )
    return outputs, {**others, **strongly_typed(nn.unbox(new))}


# Names of the argument that switches dropout and batch statistics, and its value in training.
MODES = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}


def in_mode(model: nn.Module, *, train: bool, method: Any = None) -> tuple[nn.Module, dict[str, Any]]:
    """A module and the keywords of its call, for training or for evaluation.

    The call's own arguments are used if it has one of `MODES`; else a field of such a name that is None is set; else the
    module does the same in both.
    """
    called = getattr(type(model), method) if isinstance(method, str) else method or type(model).__call__
    arguments = inspect.signature(called).parameters
    mode: dict[str, Any] = {name: train is value for name, value in MODES.items() if name in arguments}
    if mode:
        return model, mode
    fields = {field.name for field in dataclasses.fields(model)} & MODES.keys()
    unset = {name: train is MODES[name] for name in fields if getattr(model, name) is None}
    changes: Any = unset
    return (model.clone(**changes) if unset else model), {}


def _streams(key: Array) -> dict[str, Array]:
    """The random streams of a training call."""
    return {**named_keys(key, STREAMS), "dropout": key}


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
