"""Functions as StableHLO files by `jax.export`, which a process with JAX alone loads and runs.

A file has a program for each platform. Its arguments and results are dicts of arrays, so it needs none of our classes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import export

from jaxnets.core.errors import DataError, UsageError
from jaxnets.core.files import replacing

PLATFORMS = ("cpu", "cuda", "tpu")


def any_batch(shapes: Mapping[str, Any], name: str = "batch") -> dict[str, jax.ShapeDtypeStruct]:
    """The same shapes with a leading dim of any size, which all of them share."""
    (size,) = export.symbolic_shape(name)
    return {key: jax.ShapeDtypeStruct((size, *shape.shape[1:]), shape.dtype) for key, shape in shapes.items()}


def check_exportable(platforms: Sequence[str]) -> None:
    """Raise `UsageError` if flatbuffers is not installed, or a platform is unknown."""
    try:
        import flatbuffers  # noqa: F401 (jax.export serialises with it)
    except ImportError:
        raise UsageError("exporting programs needs flatbuffers: pip install jaxnets[export]") from None
    unknown = [name for name in platforms if name not in (*PLATFORMS, "rocm")]
    if unknown or not platforms:
        raise UsageError(f"platforms are some of {', '.join(PLATFORMS)}, rocm; got {', '.join(map(str, platforms))}")


def write_program(
    path: Path, function: Callable[..., Any], arguments: Sequence[Any], platforms: Sequence[str] = PLATFORMS
) -> None:
    """Export a function and write it.

    Args:
        path: the file.
        function: pure, of trees of dicts of arrays.
        arguments: `jax.ShapeDtypeStruct`s in such trees; dims may be symbolic (`any_batch`).
        platforms: what it is lowered for: "cpu", "cuda", "rocm", "tpu".

    Raises:
        UsageError: flatbuffers is not installed, or a platform is unknown.
        DataError: the file cannot be written.
    """
    check_exportable(platforms)
    made = export.export(jax.jit(function), platforms=tuple(platforms))(*arguments)
    try:
        with replacing(path) as file:
            file.write(made.serialize())
    except OSError as error:
        raise DataError(f"cannot write {path} ({error}); choose another place") from error
