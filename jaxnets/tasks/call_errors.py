"""The error message for a module that cannot be called: the attempted call, the module's signature, and how to adapt it."""

import inspect
from typing import Any

import flax.linen as nn
import jax

from jaxnets.models.wrapper import without_wrappers
from jaxnets.tasks.calls import in_mode, spread


def about_call(model: nn.Module, inputs: Any) -> str:
    """A few sentences for the end of an error message.

    Args:
        model: the module.
        inputs: the inputs from the task: arrays, or their shapes and dtypes.
    """
    kind = type(model).__name__
    if not any("__call__" in vars(base) for base in type(model).__mro__):
        own = [
            name for name, value in vars(type(model)).items() if callable(value) and name[0] != "_" and name != "setup"
        ]
        return f"{kind} has no __call__, only {', '.join(own) or 'setup'}; add one that says what its outputs are"
    arguments, named = spread(model, (inputs,))
    tried = [_shape(value) for value in arguments]
    tried += [f"{name}={_shape(value)}" for name, value in named.items()]
    given, mode = len(arguments), in_mode(model, train=True)[1]
    tried += [f"{name}={value}" for name, value in mode.items()]
    signature = inspect.signature(type(without_wrappers(model)).__call__)
    takes = [p for name, p in signature.parameters.items() if name != "self"]
    places = [p for p in takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in mode]
    lacking = [p.name for p in places[given:] if p.default is p.empty and p.name not in named]
    lacking += [
        p.name for p in takes if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in named | mode
    ]
    said = f"It was called as {kind}({', '.join(tried)}); its call is {kind}{_without_self(signature)}."
    if lacking:
        names = [p.name for p in places[:given]] + [*named] + lacking
        dict_of = ", ".join(f'"{name}": ...' for name in names)
        return f"{said} Nothing was given for {', '.join(lacking)}: give inputs by name, ({{{dict_of}}}, targets)"
    return f"{said} Adapt it by your own module: def __call__(self, x, train): return {kind}(...)(what it takes of x)"


def _without_self(signature: inspect.Signature) -> str:
    parameters = [p.replace(annotation=p.empty) for name, p in signature.parameters.items() if name != "self"]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def _shape(value: Any) -> str:
    """Shapes and dtypes of an array or of a structure of arrays."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_shape(part)}" for name, part in value.items()) + "}"
    leaves = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(value)]
    return leaves[0] if len(leaves) == 1 else f"({', '.join(leaves)})"
