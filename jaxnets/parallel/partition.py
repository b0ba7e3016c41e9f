"""Sharding of the training state over the mesh; no other file defines it.

A state is a plain tree, and every leaf has a path such as `params/hidden_0/kernel`. Rules match paths. What no rule splits is
split along its largest divisible dim over the `fsdp` axis, unless `zero` says that parameters stay whole. The path of an
optimizer moment ends in the path of its parameter (`opt_state/0/mu/hidden_0/kernel`), so the same rule matches and both get
the same sharding.
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

# The kind of memory of the host from which accelerators read.
HOST = "pinned_host"
# Smaller leaves are replicated: splitting a bias saves nothing and costs a collective.
SMALLEST_CUT = 1024


@dataclasses.dataclass(frozen=True)
class Rule:
    """Shard the leaves whose path ends in a match of `pattern`; one mesh axis for each of their trailing dims."""

    pattern: str
    """A regular expression that matches the end of the path."""
    axes: tuple[str | None, ...]
    """Mesh axis of each trailing dim; None leaves the dim to automatic FSDP."""


# Layers whose split the library knows. Tensor parallelism (Shoeybi et al. 2019): layers come in pairs. The first splits its
# outputs, the second its inputs, so that between them each device computes its own heads or hidden units, and one all-reduce
# follows the pair. Expert parallelism (Lepikhin et al. 2021): each device holds some of the experts. The names are those that
# the models of jaxnets share. An axis that does not divide the dim leaves it to automatic FSDP.
RULES = (
    Rule(r"/(query|key|value|up|gate|into|side)/kernel", (None, "tensor")),
    Rule(r"/(query|key|value|up|gate|into|side)/bias", ("tensor",)),
    Rule(r"/(merge|down)/kernel", ("tensor", None)),
    Rule(r"/mixture/(up|gate)_kernel", ("expert", None, "tensor")),
    Rule(r"/mixture/down_kernel", ("expert", "tensor", None)),
    Rule(r"/mixture/(up|gate|down)_bias", ("expert", None)),
    Rule(r"/embedding", ("tensor", None)),
    Rule(r"/output/kernel", (None, "tensor")),
    Rule(r"/output/bias", ("tensor",)),
    Rule(r"/hidden_\d*[02468]/kernel", (None, "tensor")),
    Rule(r"/hidden_\d*[02468]/bias", ("tensor",)),
    Rule(r"/hidden_\d*[13579]/kernel", ("tensor", None)),
)
# Leaves with a leading dim for the layers of a model, which a pipeline divides into its stages.
STACKED = re.compile(r"^(?!opt_state/replicas/).*/blocks/")
# Leaves with a leading dim for the replicas of a model that train apart (`steps/local.py`).
REPLICAS = re.compile(r"^opt_state/replicas/")
PARAMETERS = re.compile(r"^(opt_state/replicas/)?(params|model_state)/")


def shardings(state: Any, mesh: Mesh, *, rules: Sequence[Rule] = (), zero: int = 3, offload: str = "none") -> Any:
    """The sharding of every leaf of a state.

    Args:
        state: a tree of arrays or `jax.ShapeDtypeStruct`.
        mesh: axes `data`, `fsdp` and `tensor`, and others.
        rules: the first rule that matches a leaf applies. Leaves that none matches follow `RULES`, as far as the mesh has
            more than one device along their axes.
        zero: 3: `fsdp` splits every leaf; 1 and 2: not the parameters and the model's own state.
        offload: optimizer: the large leaves of the optimizer state are in the memory of the host.

    Returns:
        The same tree with a `NamedSharding` at each leaf.

    Raises:
        UsageError: a rule matches nothing, names an unknown axis or one axis twice, or its axis does not divide a dim.
    """
    used: set[int] = set()

    def place(path: Any, leaf: Any) -> NamedSharding:
        sharding = on_devices(path, leaf)
        waits = offload == "optimizer" and path_name(path).startswith("opt_state/")
        return sharding.with_memory_kind(HOST) if waits and leaf.size >= SMALLEST_CUT else sharding

    def on_devices(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        cuts = mesh.shape["fsdp"] if zero == 3 or not PARAMETERS.match(name) else 1
        for index, rule in enumerate(rules):
            if re.search(f"(?:{rule.pattern})$", name):
                used.add(index)
                return NamedSharding(mesh, _apply(rule, name, leaf.shape, mesh, cuts))
        if (fitting := built_in_rule(name, leaf.shape, mesh)) is not None:
            return NamedSharding(mesh, _apply(fitting, name, leaf.shape, mesh, cuts))
        return NamedSharding(mesh, _automatic(_first(name, leaf.shape, mesh), leaf.shape, cuts))

    placed = jax.tree_util.tree_map_with_path(place, state)
    for index, rule in enumerate(rules):
        if index not in used:
            raise UsageError(f"partition rule {rule.pattern!r} matches no leaf of the state; correct or remove it")
    return placed


def gradient_shardings(params: Any, mesh: Mesh, *, zero: int = 3) -> Any:
    """Where gradients and their sums over micro-batches go: as the parameters, and from ZeRO stage 2 on split over `fsdp`.

    None where `fsdp` is 1: gradients are then whole on every device, and the compiler exchanges their sums once.
    """
    if mesh.shape["fsdp"] == 1:
        return None
    return shardings({"params": params}, mesh, zero=zero if zero == 1 else 3)["params"]


def on_device(tree: Any) -> Any:
    """The shardings of a tree with all of it in the memory of the devices."""
    return jax.tree.map(lambda one: one.with_memory_kind("device") if one.memory_kind == HOST else one, tree)


def in_device_memory(array: jax.Array) -> jax.Array:
    """An array of a program that is traced, moved to the devices if it is in the memory of the host."""
    on_host = jax.typeof(array).memory_space == jax.memory.Space.Host
    return jax.device_put(array, jax.memory.Space.Device) if on_host else array


def built_in_rule(name: str, shape: Sequence[int], mesh: Any) -> Rule | None:
    """The rule of `RULES` that splits a leaf on this mesh, with the axes that can; None if there is none."""
    rule = rule_of(name, RULES)
    if rule is None or len(rule.axes) > len(shape):
        return None
    last = shape[len(shape) - len(rule.axes) :]
    able = (
        axis if axis is not None and mesh.shape.get(axis, 1) > 1 and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(rule.axes, last, strict=True)
    )
    fitting = Rule(rule.pattern, tuple(able))
    return fitting if any(fitting.axes) else None


def rule_of(name: str, rules: Sequence[Rule]) -> Rule | None:
    """The first rule whose pattern matches the end of a path."""
    return next((rule for rule in rules if re.search(f"(?:{rule.pattern})$", name)), None)


def path_name(path: Any) -> str:
    """A tree path as `params/hidden_0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _apply(rule: Rule, name: str, shape: tuple[int, ...], mesh: Mesh, cuts: int) -> P:
    axes = [axis for axis in rule.axes if axis is not None]
    if len(rule.axes) > len(shape):
        raise UsageError(f"{name} has {len(shape)} dims, partition rule {rule.pattern!r} names {len(rule.axes)}")
    for axis in axes:
        if axis not in mesh.shape:
            raise UsageError(f"partition rule {rule.pattern!r}: no mesh axis {axis!r}; there are {tuple(mesh.shape)}")
    if len(set(axes)) != len(axes):
        raise UsageError(f"partition rule {rule.pattern!r} uses a mesh axis twice: {rule.axes}")
    spec = _first(name, shape, mesh)[: len(shape) - len(rule.axes)] + list(rule.axes)
    for dim, cut in enumerate(spec):
        if cut is not None and shape[dim] % mesh.shape[cut]:
            raise UsageError(
                f"{name} dim {dim} has size {shape[dim]}, not divisible by mesh axis {cut!r} of size {mesh.shape[cut]}"
            )
    return _automatic(spec, shape, cuts)


def _first(name: str, shape: Sequence[int], mesh: Any) -> list[str | None]:
    """The axes of a leaf's dims before any rule: those of its first dim, if it is one of layers or replicas."""
    spec: list[str | None] = [None] * len(shape)
    for axis, pattern in (("pipeline", STACKED), ("replica", REPLICAS)):
        size = mesh.shape.get(axis, 1)
        if size > 1 and shape and shape[0] % size == 0 and pattern.search(name):
            spec[0] = axis
    return spec


def _automatic(spec: list[str | None], shape: tuple[int, ...], cuts: int) -> P:
    """Split the largest free divisible dim into `cuts` over `fsdp`, if there is one and the leaf is large enough."""
    if cuts > 1 and "fsdp" not in spec and math.prod(shape) >= SMALLEST_CUT:
        for dim in sorted(range(len(shape)), key=lambda d: -shape[d]):
            if spec[dim] is None and shape[dim] % cuts == 0:
                spec = [*spec[:dim], "fsdp", *spec[dim + 1 :]]
                break
    return P(*spec)


def reason(name: str, shape: Sequence[int], sharding: NamedSharding) -> str:
    """Why a leaf that no rule of a user's splits is placed as it is, in words."""
    if "pipeline" in sharding.spec:
        return f"its layers are divided into stages; {_reason_of_dims(name, shape, sharding)}"
    if "replica" in sharding.spec:
        return f"each group has its own replica; {_reason_of_dims(name, shape, sharding)}"
    return _reason_of_dims(name, shape, sharding)


def _reason_of_dims(name: str, shape: Sequence[int], sharding: NamedSharding) -> str:
    cuts = sharding.mesh.shape["fsdp"]
    if (rule := built_in_rule(name, shape, sharding.mesh)) is not None:
        more = f", and the largest other dim that {cuts} divides" if "fsdp" in sharding.spec else ""
        kind = " and ".join(axis for axis in rule.axes if axis)
        return f"{kind} rule {rule.pattern.lstrip('/')}{more}"
    if "fsdp" in sharding.spec:
        return f"its largest dim that {cuts} divides"
    if cuts == 1:
        return "fsdp is 1"
    if math.prod(shape) < SMALLEST_CUT:
        return f"fewer than {SMALLEST_CUT:,} numbers"
    if any(size % cuts == 0 for size in shape):
        return "parameters are whole with zero below 3"
    return f"no dim that {cuts} divides"


def describe(state: Any, placed: Any) -> list[tuple[str, tuple[int, ...], str, str]]:
    """One row per leaf: path, shape, dtype and partition spec."""
    rows = []
    for (path, leaf), sharding in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(placed), strict=True):
        rows.append((path_name(path), tuple(leaf.shape), str(leaf.dtype), str(sharding.spec)))
    return rows
