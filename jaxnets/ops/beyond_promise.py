"""All uses of JAX outside its promise of stable APIs, in one file.

JAX promises to keep what its reference documents for three months after a change is announced (docs.jax.dev,
"API compatibility"). The promise leaves out `jax.extend`, `jax.interpreters`, `jax.core`, `jax.experimental`, the form of
jaxprs, `jax._src` and options of the compiler. jaxnets reaches each of them through a function of this file, and
`tests/ops/test_beyond_promise.py` has one test for each row:

| what | used for | when it moves |
| --- | --- | --- |
| `jax.extend.core.Primitive`, parts of `jax.interpreters` | `ops/bilinear.py` | products are plain, differentiated by JAX |
| `jax.core.Tracer` | `is_traced` | adapt `is_traced` |
| `flax.core.tracers` (JAX's `get_opaque_trace_state`) | `current_trace` | adapt `current_trace` |
| `AbstractMesh.abstract_device` | `compiled_for`, `compiling_for` | the default device decides |
| `backends_are_initialized` of `jax._src.xla_bridge` | `devices_started` | devices count as started |
| `jax.experimental.pallas.ops.tpu.splash_attention` | `ops/attention_kernels.py` | attention of TPUs is in blocks |
| `jax.experimental.mesh_utils` | `parallel/mesh.py` | adapt `device_grid` |
| `jax.experimental.topologies` | `accelerators/topology.py` | adapt `topology_devices` |
| `jax.experimental.multihost_utils` | `parallel/hosts.py` | adapt `multihost` |
| `eqns`, `params`, `source_info` of jaxprs | `training/program.py`, `cli/summary.py` | adapt `equations` and both readers |
| option `xla_backend_optimization_level` | `quick_compilation` | return None there |
| option `xla_gpu_enable_triton_gemm` | `untimed_compilation` | return None there |
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np


def primitive_tools() -> tuple[Any, Any, Any, Any] | None:
    """`Primitive, ad, batching, mlir`, which define a primitive; None if this version of JAX has moved one of them."""
    try:
        from jax.extend.core import Primitive
        from jax.interpreters import ad, batching, mlir
    except ImportError:
        return None
    needed = ((ad, "defbilinear"), (batching, "primitive_batchers"), (mlir, "register_lowering"), (mlir, "lower_fun"))
    return (Primitive, ad, batching, mlir) if all(hasattr(module, name) for module, name in needed) else None


def is_traced(value: Any) -> bool:
    """Whether a value is known only by its shape and dtype, because a transformation is tracing the function."""
    return isinstance(value, jax.core.Tracer)


def current_trace() -> Any:
    """The trace in progress, to be compared with that of another moment: a scan's body and a checkpoint have their own."""
    from flax.core import tracers

    return tracers.current_trace()


def compiled_for() -> str:
    """The platform ("cpu", "gpu", "tpu") that the program being traced is compiled for.

    It is the platform of the devices of the mesh in use (`jax.set_mesh`), which need not be those of this machine. Without
    a mesh it is that of the default device. Call it while tracing to choose between two forms of one operation: both have
    the same values, so a wrong choice only costs time.
    """
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if device is not None:
        return str(device.platform)
    default = getattr(jax.config, "jax_default_device", None)
    return str(getattr(default, "platform", default) or jax.default_backend())


def compiling_for(platform: str) -> AbstractContextManager[Any]:
    """Functions traced in this context get `platform` from `compiled_for`; any name but "cpu" chooses the plain forms.

    It is a mesh of one absent device, so JAX does not mix these traces with those of this machine.
    """
    device = jax.sharding.AbstractDevice(device_kind=platform, platform=platform, num_cores=None)
    mesh = jax.sharding.AbstractMesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), abstract_device=device)
    context: AbstractContextManager[Any] = jax.sharding.use_abstract_mesh(mesh)
    return context


def splash_attention() -> tuple[Any, Any] | None:
    """The modules of JAX's attention kernels for TPUs and of their masks; None where this JAX has moved a part of them."""
    try:
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
    except ImportError:
        return None
    needed = ("make_splash_mha", "BlockSizes", "SegmentIds", "_splash_attention_bwd")
    return (kernels, masks) if all(hasattr(kernels, name) for name in needed) else None


def topology_devices(platform: str, name: str, **options: Any) -> Any:
    """Devices of an absent topology, for a mesh to compile for."""
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform=platform, topology_name=name, **options).devices


def device_grid(groups: Sequence[Sequence[Any]], shape: tuple[int, ...]) -> Any:
    """An array of devices `[groups, *shape]`, each group arranged so that neighbours in the grid are neighbours in it."""
    from jax.experimental import mesh_utils

    split = {"allow_split_physical_axes": True}  # an axis of the grid may take a part of an axis of a torus
    return np.stack([mesh_utils.create_device_mesh(shape, list(group), **split) for group in groups])


def devices_started() -> bool:
    """Whether JAX has started its devices. Any public function that returns them would start them."""
    from jax._src import xla_bridge

    return bool(getattr(xla_bridge, "backends_are_initialized", lambda: True)())


def multihost() -> Any:
    """The module `multihost_utils`: values and barriers between the processes of one run."""
    from jax.experimental import multihost_utils

    return multihost_utils


def equations(jaxpr: Any) -> list[Any]:
    """The equations of a jaxpr; each has a `primitive`, `params`, `invars` and `outvars`."""
    return list(jaxpr.eqns)


def quick_compilation(platform: str) -> dict[str, Any] | None:
    """Compiler options for a program that runs once. On the CPU, optimisation takes longer than it saves."""
    return {"xla_backend_optimization_level": 0} if platform == "cpu" else None


def untimed_compilation(platform: str) -> dict[str, Any] | None:
    """Compiler options for an absent device. XLA finds the tiles of its own products for GPUs by timing them. Its default
    tiles fail for some shapes, so cuBLAS is used for products."""
    return {"xla_gpu_enable_triton_gemm": False} if platform == "gpu" else None
