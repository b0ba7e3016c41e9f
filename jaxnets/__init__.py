"""jaxnets: every network of a neural-network course as one readable file, and one small loop that trains them all.

import jaxnets

data = jaxnets.load("digits")
run = jaxnets.fit(jaxnets.models.CNN(), data, epochs=10)
run.history.plot()
run.predict(data.test["inputs"][:5])
"""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets import callbacks as callbacks
    from jaxnets import data as data
    from jaxnets import diagnose as diagnose
    from jaxnets import evidence as evidence
    from jaxnets import models as models
    from jaxnets import optim as optim
    from jaxnets import parallel as parallel
    from jaxnets import postflight as postflight
    from jaxnets import preflight as preflight
    from jaxnets import tasks as tasks
    from jaxnets import theory as theory
    from jaxnets import training as training
    from jaxnets.api import check as check
    from jaxnets.api import find_lr as find_lr
    from jaxnets.api import fit as fit
    from jaxnets.callbacks.callback import Callback as Callback
    from jaxnets.checkpoints.initial import Initial as Initial
    from jaxnets.config.experiment import Experiment as Experiment
    from jaxnets.core.types import Mean as Mean
    from jaxnets.data import from_arrays as from_arrays
    from jaxnets.data import load as load
    from jaxnets.evidence.comparison import compare as compare
    from jaxnets.evidence.curves import curve as curve
    from jaxnets.evidence.search import sweep as sweep
    from jaxnets.postflight.of_run import diagnosis as diagnosis
    from jaxnets.runs.open import open_run as open_run
    from jaxnets.runs.run import Run as Run
    from jaxnets.runs.soup import soup as soup
    from jaxnets.runs.train import train as train
    from jaxnets.training.early_stop import EarlyStop as EarlyStop

__version__ = "0.1.0"

# The module of each name, and the rooms; they load on first use: `import jaxnets` itself costs nothing.
FILES = {
    "Callback": "callbacks.callback",
    "EarlyStop": "training.early_stop",
    "Experiment": "config.experiment",
    "Initial": "checkpoints.initial",
    "Mean": "core.types",
    "Run": "runs.run",
    "check": "api",
    "compare": "evidence.comparison",
    "curve": "evidence.curves",
    "diagnosis": "postflight.of_run",
    "find_lr": "api",
    "fit": "api",
    "from_arrays": "data",
    "load": "data",
    "open_run": "runs.open",
    "soup": "runs.soup",
    "sweep": "evidence.search",
    "train": "runs.train",
    **dict.fromkeys(
        (
            "callbacks",
            "data",
            "diagnose",
            "evidence",
            "interop",
            "models",
            "ops",
            "optim",
            "parallel",
            "postflight",
            "preflight",
            "report",
            "tasks",
            "theory",
            "training",
        ),
        "",
    ),
}
__all__ = [*FILES, "__version__"]

__getattr__, __dir__ = lazy(__name__, FILES)
