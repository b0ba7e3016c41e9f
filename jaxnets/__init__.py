"""jaxnets: every network of a neural-network course as one readable file, and one small loop that trains them all.

import jaxnets

data = jaxnets.load("digits")
run = jaxnets.fit(jaxnets.models.CNN(), data, epochs=10)
run.history.plot()
run.predict(data.test["inputs"][:5])
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxnets import data as data
    from jaxnets import models as models
    from jaxnets import optim as optim
    from jaxnets import parallel as parallel
    from jaxnets import tasks as tasks
    from jaxnets import training as training
    from jaxnets.api import fit as fit
    from jaxnets.config import Experiment as Experiment
    from jaxnets.data import from_arrays as from_arrays
    from jaxnets.data import load as load
    from jaxnets.run import Run as Run
    from jaxnets.run import open_run as open_run
    from jaxnets.run import train as train

__version__ = "0.1.0"

# Name -> the module that defines it. They load on first use: `import jaxnets` itself costs nothing.
_LAZY = {
    "Experiment": "jaxnets.config",
    "Run": "jaxnets.run",
    "fit": "jaxnets.api",
    "from_arrays": "jaxnets.data",
    "load": "jaxnets.data",
    "open_run": "jaxnets.run",
    "train": "jaxnets.run",
}
_ROOMS = ("data", "models", "ops", "optim", "parallel", "report", "tasks", "training")

__all__ = [*_LAZY, *_ROOMS, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"jaxnets.{name}")
    raise AttributeError(f"module 'jaxnets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
