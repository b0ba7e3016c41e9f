"""What is installed of the packages that decide what a run computes."""

import importlib.metadata

PACKAGES = ("jaxnets", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """The version of each, by name; "not installed" for one that is not there."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
