"""The experiment: its dataclass, its configuration file, and its form as data."""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.config.experiment import Expected as Expected
    from jaxnets.config.experiment import Experiment as Experiment
    from jaxnets.config.find import Loaded as Loaded
    from jaxnets.config.find import available as available
    from jaxnets.config.find import load as load
    from jaxnets.config.serialize import from_data as from_data
    from jaxnets.config.serialize import to_data as to_data

# The file of each name; see `jaxnets.core.lazy`.
FILES = {
    "Expected": "experiment",
    "Experiment": "experiment",
    "Loaded": "find",
    "available": "find",
    "from_data": "serialize",
    "load": "find",
    "to_data": "serialize",
}

__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = ["Expected", "Experiment", "Loaded", "available", "from_data", "load", "to_data"]
