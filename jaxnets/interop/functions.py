"""Models that are no Linen modules, as one: a pair of pure functions, an Equinox module, a Flax NNX module.

Each becomes a `Functions`, a Linen module whose parameters are what the first function returns. Equinox and NNX are imported
only by the function that adapts them.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax import Array

from jaxnets.core.errors import UsageError


class Functions(nn.Module):
    """A model from two pure functions; `fit((init, apply), data)` makes one."""

    initialise: Callable[..., Any]
    """`init(key, inputs)` returns the parameters, any tree of arrays."""
    function: Callable[..., Any]
    """`apply(parameters, inputs)` returns the outputs; the same in training and in evaluation."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The function's outputs."""
        return self.function(self.param("functions", self.initialise, x), x)


def from_equinox(module: Any, *, over_examples: bool = True) -> Functions:
    """An Equinox module (`eqx.Module`) as a model; training begins with its own arrays.

    Args:
        module: called with one example, or with a batch. Layers with state (`eqx.nn.BatchNorm`) and dropout are not supported:
            the module is called without a key.
        over_examples: map the module over the examples of a batch, as is usual with Equinox.
    """
    import equinox

    trained, fixed = equinox.partition(module, equinox.is_inexact_array)
    paths, structure = _flat(trained)

    def apply(parameters: dict[str, Array], x: Any) -> Any:
        whole = equinox.combine(jax.tree.unflatten(structure, [parameters[path] for path in paths]), fixed)
        return jax.vmap(whole)(x) if over_examples else whole(x)

    return Functions(lambda key, x: dict(zip(paths, jax.tree.leaves(trained), strict=True)), apply)


def from_nnx(module: Any) -> Functions:
    """A Flax NNX module as a model; training begins with its own parameters.

    Raises:
        UsageError: the module has variables that a call changes (batch statistics, random streams).
    """
    from flax import nnx

    split: Any = nnx.split
    graph, params, rest = split(module, nnx.Param, ...)
    if jax.tree.leaves(rest):
        kinds = sorted(
            {type(leaf).__name__ for leaf in jax.tree.leaves(rest, is_leaf=lambda v: isinstance(v, nnx.Variable))}
        )
        raise UsageError(
            f"{type(module).__name__} has variables other than nnx.Param ({', '.join(kinds)}), which a call would change; "
            f"leave out dropout and batch statistics, or write the module in Linen"
        )
    paths, structure = _flat(params)

    def apply(parameters: dict[str, Array], x: Any) -> Any:
        return nnx.merge(graph, jax.tree.unflatten(structure, [parameters[path] for path in paths]))(x)

    return Functions(lambda key, x: dict(zip(paths, jax.tree.leaves(params), strict=True)), apply)


def _flat(tree: Any) -> tuple[list[str], Any]:
    """Names of the leaves, such as `layers.0.weight`, and the structure of the tree."""
    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in found], structure
