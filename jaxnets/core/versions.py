"""The installed versions of the packages that determine the results of a run."""

import importlib.metadata

PACKAGES = ("jaxnets", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """The version of each package by name; "not installed" for a missing one."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
