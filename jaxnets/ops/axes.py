"""Logical names for the dims of an activation, and the mesh axes that they are sharded over.

A model names an activation where sharding propagation needs a constraint: `x = name_axes(x, "batch", "length", "embed")`.
Outside a mesh this is a no-op, so model files do not depend on the devices.
"""

import contextlib
from collections.abc import Iterator

import jax
from jax import Array
from jax.sharding import PartitionSpec

# Logical name -> mesh axes. A name that is not here is an error; None: replicated.
AXES: dict[str, tuple[str, ...] | None] = {
    "batch": ("pipeline", "replica", "data", "fsdp", "expert"),
    "group": ("pipeline", "replica", "data", "fsdp"),  # a batch whose rows go to the experts
    "expert": ("expert",),
    "expert_home": None,  # the results of the experts, back with their rows
    "length": ("sequence",),
    "embed": None,
    "vocab": ("tensor",),
    "mlp": ("tensor",),
    "height": None,
    "width": None,
    "channel": None,
}


# Axes that `name_axes` leaves out, because the traced code gets one of several arrays along them (`jax.vmap`).
_ELSEWHERE: list[str] = []


@contextlib.contextmanager
def apart_along(axis: str) -> Iterator[None]:
    """In this context no activation is split over a mesh axis: everything is mapped over it."""
    _ELSEWHERE.append(axis)
    try:
        yield
    finally:
        _ELSEWHERE.remove(axis)


def mapped_elsewhere() -> bool:
    """Whether the traced code gets one of several arrays along some axis (`apart_along`)."""
    return bool(_ELSEWHERE)


def axis_size(axis: str) -> int:
    """Devices along an axis of the mesh in use; 1 outside of a mesh."""
    return int(jax.sharding.get_abstract_mesh().shape.get(axis, 1))


def free_axes() -> set[str]:
    """The axes of the mesh in use along which what is traced sees whole arrays: all outside of a `shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    return {*mesh.axis_names} - {*mesh.manual_axes}


def name_axes(x: Array, *names: str) -> Array:
    """Constrain the sharding of `x` over the mesh in use, by one logical name for each of its dims.

    Args:
        x: any activation.
        *names: as many names as `x` has dims, each a key of `AXES`.

    Returns:
        `x`; a dim is sharded if a mesh is set and the size of its axes divides the dim.
    """
    if len(names) != x.ndim:
        raise ValueError(
            f"name_axes: {len(names)} names {names} for an array of shape {x.shape}; give one for each dim"
        )
    unknown = [name for name in names if name not in AXES]
    if unknown:
        raise ValueError(f"name_axes: {unknown[0]!r} is not a known axis name; known: {', '.join(AXES)}")
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    spec = []
    for name, size in zip(names, x.shape, strict=True):
        # Inside a `shard_map` an array has only this device's part along the axes that it maps over.
        taken = (*mesh.manual_axes, *_ELSEWHERE)
        axes = tuple(axis for axis in (AXES[name] or ()) if axis in mesh.shape and axis not in taken)
        devices = 1
        for axis in axes:
            devices *= mesh.shape[axis]
        # Some releases of jax ignore a constraint that does not divide, others raise. So it is decided here.
        spec.append(axes if devices > 1 and size % devices == 0 else None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))
