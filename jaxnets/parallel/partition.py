"""How the training state is spread over the mesh: the only file that knows.

A state is a plain tree, and every leaf has a path such as `params/hidden_0/kernel`. Rules match paths; what no rule names
is cut along its largest divisible dim over the `fsdp` axis. The optimizer's moments have the paths of their parameters at
the end of their own (`opt_state/0/mu/hidden_0/kernel`), so the same rule finds them and they stay beside them.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets.core.errors import UsageError

# Below this a leaf stays whole: cutting a bias saves nothing and costs a collective.
SMALLEST_CUT = 1024


@dataclasses.dataclass(frozen=True)
class Rule:
    """Spread the leaves whose path ends in a match of `pattern`: one entry for each of their trailing dims."""

    pattern: str
    """A regular expression, searched in the path and anchored to its end."""
    axes: tuple[str | None, ...]
    """Mesh axis of each trailing dim, or None to leave the dim to automatic FSDP."""


def shardings(state: Any, mesh: Mesh, *, rules: Sequence[Rule] = ()) -> Any:
    """The sharding of every leaf of a state.

    Args:
        state: a tree of arrays or `jax.ShapeDtypeStruct`.
        mesh: axes `data`, `fsdp` and `tensor`.
        rules: the first that matches a leaf decides.

    Returns:
        The same tree with a `NamedSharding` at each leaf.

    Raises:
        UsageError: a rule matches nothing, names an unknown or doubled axis, or does not divide a dim.
    """
    used: set[int] = set()

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        for index, rule in enumerate(rules):
            if re.search(f"(?:{rule.pattern})$", name):
                used.add(index)
                return NamedSharding(mesh, _apply(rule, name, leaf.shape, mesh))
        return NamedSharding(mesh, _automatic([None] * len(leaf.shape), leaf.shape, mesh))

    placed = jax.tree_util.tree_map_with_path(place, state)
    for index, rule in enumerate(rules):
        if index not in used:
            raise UsageError(f"partition rule {rule.pattern!r} matches no leaf of the state; correct or remove it")
    return placed


def path_name(path: Any) -> str:
    """A tree path as `params/hidden_0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _apply(rule: Rule, name: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    axes = [axis for axis in rule.axes if axis is not None]
    if len(rule.axes) > len(shape):
        raise UsageError(f"{name} has {len(shape)} dims, partition rule {rule.pattern!r} names {len(rule.axes)}")
    for axis in axes:
        if axis not in mesh.shape:
            raise UsageError(f"partition rule {rule.pattern!r}: no mesh axis {axis!r}; there are {tuple(mesh.shape)}")
    if len(set(axes)) != len(axes):
        raise UsageError(f"partition rule {rule.pattern!r} uses a mesh axis twice: {rule.axes}")
    unnamed: list[str | None] = [None] * (len(shape) - len(rule.axes))
    spec = [*unnamed, *rule.axes]
    for dim, cut in enumerate(spec):
        if cut is not None and shape[dim] % mesh.shape[cut]:
            raise UsageError(
                f"{name} dim {dim} has size {shape[dim]}, not divisible by mesh axis {cut!r} of size {mesh.shape[cut]}"
            )
    return _automatic(spec, shape, mesh)


def _automatic(spec: list[str | None], shape: tuple[int, ...], mesh: Mesh) -> P:
    """Cut the largest free divisible dim over `fsdp`, where there is one and the leaf is worth it."""
    cuts = mesh.shape["fsdp"]
    if cuts > 1 and "fsdp" not in spec and math.prod(shape) >= SMALLEST_CUT:
        for dim in sorted(range(len(shape)), key=lambda d: -shape[d]):
            if spec[dim] is None and shape[dim] % cuts == 0:
                spec = [*spec[:dim], "fsdp", *spec[dim + 1 :]]
                break
    return P(*spec)


def describe(state: Any, placed: Any) -> list[tuple[str, tuple[int, ...], str, str]]:
    """One row for each leaf: path, shape, dtype and how it is spread."""
    rows = []
    for (path, leaf), sharding in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(placed), strict=True):
        rows.append((path_name(path), tuple(leaf.shape), str(leaf.dtype), str(sharding.spec)))
    return rows
