"""How tasks call their modules: random streams and variable collections.

A module may draw from streams of any name (`self.make_rng("noise")`). In training the common names have their own keys,
derived from the step's key by name; other names draw from the stream "params". In evaluation there are no streams, and a
module that draws there raises `UsageError`, since its outputs would depend on the batch size.

A collection that `init` creates is state and is carried from step to step. A collection that a module sows (`self.sow`) grows
at every call, so it is not state and is dropped. Values sown in "losses" are added to the training loss (`steps/sown.py`).
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
from jaxnets.models.wrapper import without_wrappers
from jaxnets.ops.random import named_keys
from jaxnets.steps.sown import COLLECTION as LOSSES
from jaxnets.steps.state import strongly_typed
from jaxnets.tasks.boxes import without_boxes

# Streams that `self.has_rng` finds in training, besides "dropout"; `self.make_rng` draws from any.
STREAMS = (
    "params", "noise", "sample", "sampling", "latent", "gumbel", "drop_path", "droppath", "stochastic_depth", "mask",
    "masking", "augment", "random", "default",
)  # fmt: skip


def init_model(model: nn.Module, key: Array, *inputs: Any) -> Variables:
    """Initial variables of a module called as `model(*inputs)` (see `spread`), in evaluation: `{"params": ..., ...}`.

    Raises:
        UsageError: the shapes or dtypes of a collection change in a call.
    """
    module, mode = in_mode(model, train=False)
    inputs, named = spread(model, inputs)
    mode |= named
    initialise: Any = module.init

    def initialised() -> Variables:
        made = initialise({"params": key, "dropout": key}, *inputs, **mode)
        return dict(strongly_typed(nn.unbox(made)))

    # Boxes of `nn.with_partitioning` are removed, and their axes are not looked up in the mesh: the placement of arrays is
    # decided by `parallel/partition.py`. A module that constrains its activations by `jax.lax` needs the mesh, though.
    try:
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
            variables = initialised()
    except (RuntimeError, ValueError) as error:
        if "mesh" not in str(error):
            raise
        variables = _explained(model, initialised)
    except NameError:
        variables = _explained(model, initialised)  # to say what is wrong with the name
    variables.pop(LOSSES, None)  # sown again in every call, also by a module that sums its values itself
    kept = [name for name in variables if name != "params"]
    if not kept:
        return variables

    def called() -> Variables:
        module, mode = in_mode(model, train=True)
        call: Any = module.apply
        mode |= named
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
        The module's result, and its collections other than params after the call; in training also what it sowed as losses.
    """
    others = {name: value for name, value in variables.items() if name != "params"}
    rngs, kept = ({}, []) if key is None else (_streams(key), [*others, LOSSES])
    module, mode = in_mode(model, train=key is not None, method=options.get("method"))
    inputs, named = spread(model, inputs, method=options.get("method"))
    mode |= named
    call: Any = module.apply  # its return type depends on `mutable`
    outputs, new = _explained(
        model,
        lambda: without_boxes(lambda: call(variables, *inputs, **mode, rngs=rngs, mutable=[*kept, *sown], **options)),
    )
    return outputs, {**others, **strongly_typed(nn.unbox(new))}


# Names of the argument that switches dropout and batch statistics, and its value in training.
MODES = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}


def in_mode(model: nn.Module, *, train: bool, method: Any = None) -> tuple[nn.Module, dict[str, Any]]:
    """A module and the keywords of its call, for training or for evaluation.

    If the call has an argument in `MODES`, it is used; else a field with such a name that is None is set; else the module
    behaves in the same way in both.
    """
    arguments = inspect.signature(_called(model, method)).parameters
    mode: dict[str, Any] = {name: train is value for name, value in MODES.items() if name in arguments}
    if mode:
        return model, mode
    fields = {field.name for field in dataclasses.fields(without_wrappers(model))} & MODES.keys()
    unset = {name: train is MODES[name] for name in fields if getattr(model, name) is None}
    changes: Any = unset
    return (model.clone(**changes) if unset else model), {}


def spread(model: nn.Module, inputs: tuple[Any, ...], *, method: Any = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a call from the inputs of a batch.

    A plain dict whose keys are arguments of the call is passed as keywords; a dict without such keys is a single argument. A
    plain tuple is passed as the first arguments, if the call has that many. Anything else is a single argument, also a named
    tuple.

    Raises:
        UsageError: some keys are arguments, and others are not.
    """
    if len(inputs) != 1 or type(inputs[0]) not in (dict, tuple):
        return inputs, {}
    (given,) = inputs
    takes = [p for name, p in inspect.signature(_called(model, method)).parameters.items() if name != "self"]
    if isinstance(given, tuple):
        many = any(p.kind is p.VAR_POSITIONAL for p in takes)
        places = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in MODES for p in takes)
        return (given if many or places >= len(given) else inputs), {}
    if any(p.kind is p.VAR_KEYWORD for p in takes):
        return (), given
    names = [p.name for p in takes if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [name for name in given if name not in names]
    if len(unknown) == len(given):
        return inputs, {}
    if unknown:
        raise UsageError(
            f"the inputs are {', '.join(given)}, but the call of {type(model).__name__} has no argument {unknown[0]!r}: it "
            f"has {', '.join(names)}; name every input after one of them"
        )
    return (), given


def _called(model: nn.Module, method: Any = None) -> Any:
    """The function that a call runs; for a model with adapters that of the model itself."""
    kind = type(without_wrappers(model))
    return getattr(kind, method) if isinstance(method, str) else method or kind.__call__


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
    except NameError as error:
        if "unbound axis name" not in str(error):
            raise
        raise UsageError(
            f"{kind} sums over an axis of pmap or vmap, which there is none of ({_reason(error)}); leave axis_name out: a "
            f"call sees the whole batch, over all devices, so its means are those of the whole batch already"
        ) from error
    except ValueError as error:
        if "Resource axis" not in str(error):
            raise
        raise UsageError(
            f"{kind} places an array on an axis that the mesh has not ({_reason(error)}); use the axes data, fsdp and tensor, "
            f"or give logical names with rules to these: nn.logical_axis_rules([('batch', 'data'), ('embed', None)])"
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
