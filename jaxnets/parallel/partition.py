"""Sharding of the training state over the mesh; no other file defines it.

A state is a plain tree, and every leaf has a path such as `params/hidden_0/kernel`. Rules match paths. What no rule splits is
split along its largest divisible dim over the `fsdp` axis. The path of an optimizer moment ends in the path of its parameter
(`opt_state/0/mu/hidden_0/kernel`), so the same rule matches and both get the same sharding.
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

# Smaller leaves are replicated: splitting a bias saves nothing and costs a collective.
SMALLEST_CUT = 1024


@dataclasses.dataclass(frozen=True)
class Rule:
    """Shard the leaves whose path ends in a match of `pattern`; one mesh axis for each of their trailing dims."""

    pattern: str
    """A regular expression that matches the end of the path."""
    axes: tuple[str | None, ...]
    """Mesh axis of each trailing dim; None leaves the dim to automatic FSDP."""


# Tensor parallelism (Shoeybi et al. 2019): layers come in pairs. The first splits its outputs, the second its inputs, so that
# between them each device computes its own heads or hidden units, and one all-reduce follows the pair. The names are those
# that the models of jaxnets share. A rule whose axis does not divide the dim leaves the leaf to automatic FSDP.
TENSOR_RULES = (
    Rule(r"/(query|key|value|up|gate|into|side)/kernel", (None, "tensor")),
    Rule(r"/(query|key|value|up|gate|into|side)/bias", ("tensor",)),
    Rule(r"/(merge|down)/kernel", ("tensor", None)),
    Rule(r"/mixture/(up|gate)_kernel", (None, "tensor")),
    Rule(r"/mixture/down_kernel", ("tensor", None)),
    Rule(r"/embedding", ("tensor", None)),
    Rule(r"/output/kernel", (None, "tensor")),
    Rule(r"/output/bias", ("tensor",)),
    Rule(r"/hidden_\d*[02468]/kernel", (None, "tensor")),
    Rule(r"/hidden_\d*[02468]/bias", ("tensor",)),
    Rule(r"/hidden_\d*[13579]/kernel", ("tensor", None)),
)


def shardings(state: Any, mesh: Mesh, *, rules: Sequence[Rule] = ()) -> Any:
    """The sharding of every leaf of a state.

    Args:
        state: a tree of arrays or `jax.ShapeDtypeStruct`.
        mesh: axes `data`, `fsdp` and `tensor`.
        rules: the first rule that matches a leaf applies. Leaves that none matches follow `TENSOR_RULES`, if the mesh has
            more than one device along `tensor`.

    Returns:
        The same tree with a `NamedSharding` at each leaf.

    Raises:
        UsageError: a rule matches nothing, names an unknown axis or one axis twice, or its axis does not divide a dim.
    """
    used: set[int] = set()

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        for index, rule in enumerate(rules):
            if re.search(f"(?:{rule.pattern})$", name):
                used.add(index)
                return NamedSharding(mesh, _apply(rule, name, leaf.shape, mesh))
        if (fitting := tensor_rule(name, leaf.shape, mesh)) is not None:
            return NamedSharding(mesh, _apply(fitting, name, leaf.shape, mesh))
        return NamedSharding(mesh, _automatic([None] * len(leaf.shape), leaf.shape, mesh))

    placed = jax.tree_util.tree_map_with_path(place, state)
    for index, rule in enumerate(rules):
        if index not in used:
            raise UsageError(f"partition rule {rule.pattern!r} matches no leaf of the state; correct or remove it")
    return placed


def tensor_rule(name: str, shape: Sequence[int], mesh: Any) -> Rule | None:
    """The rule of `TENSOR_RULES` that splits a leaf on this mesh, if there is one that can."""
    size = mesh.shape["tensor"]
    rule = next((rule for rule in TENSOR_RULES if re.search(f"(?:{rule.pattern})$", name)), None)
    if size == 1 or rule is None or len(rule.axes) > len(shape):
        return None
    dim = len(shape) - len(rule.axes) + rule.axes.index("tensor")
    return rule if shape[dim] % size == 0 else None


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
    """Split the largest free divisible dim over `fsdp`, if there is one and the leaf is large enough."""
    cuts = mesh.shape["fsdp"]
    if cuts > 1 and "fsdp" not in spec and math.prod(shape) >= SMALLEST_CUT:
        for dim in sorted(range(len(shape)), key=lambda d: -shape[d]):
            if spec[dim] is None and shape[dim] % cuts == 0:
                spec = [*spec[:dim], "fsdp", *spec[dim + 1 :]]
                break
    return P(*spec)


def reason(name: str, shape: Sequence[int], sharding: NamedSharding) -> str:
    """Why a leaf that no rule of a user's splits is placed as it is, in words."""
    cuts = sharding.mesh.shape["fsdp"]
    if (rule := tensor_rule(name, shape, sharding.mesh)) is not None:
        more = f", and the largest other dim that {cuts} divides" if "fsdp" in sharding.spec else ""
        return f"tensor rule {rule.pattern.lstrip('/')}{more}"
    if "fsdp" in sharding.spec:
        return f"its largest dim that {cuts} divides"
    if cuts == 1:
        return "fsdp is 1"
    if math.prod(shape) < SMALLEST_CUT:
        return f"fewer than {SMALLEST_CUT:,} numbers"
    return f"no dim that {cuts} divides"


def describe(state: Any, placed: Any) -> list[tuple[str, tuple[int, ...], str, str]]:
    """One row per leaf: path, shape, dtype and partition spec."""
    rows = []
    for (path, leaf), sharding in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(placed), strict=True):
        rows.append((path_name(path), tuple(leaf.shape), str(leaf.dtype), str(sharding.spec)))
    return rows
