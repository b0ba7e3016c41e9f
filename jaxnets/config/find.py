"""Configuration files: found by name, read by running them."""

import dataclasses
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxnets.config.experiment import Expected, Experiment
from jaxnets.core.errors import ConfigFileError, JaxnetsError, UsageError, did_you_mean
from jaxnets.core.files import user_path

# The name of a configuration file as a module.
CONFIG_MODULE = "jaxnets_config"


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A configuration file, read."""

    name: str
    experiment: Experiment
    expected: Expected | None
    summary: str
    """First line of the file's docstring."""
    parameters: int | None = None
    """Numbers in the model as shipped, where the file says PARAMETERS; counting them takes the data and JAX."""


def config_directories() -> list[Path]:
    """Where bare names are looked up: here, beside the package (a checkout), inside it (an installation)."""
    package = Path(__file__).resolve().parents[1]
    places = [Path("configs").absolute(), package.parent / "configs", package / "configs"]
    return [place for index, place in enumerate(places) if place.is_dir() and place not in places[:index]]


def available() -> dict[str, Path]:
    """Configurations by bare name."""
    found: dict[str, Path] = {}
    for directory in config_directories():
        for path in sorted(directory.glob("*.py")):
            if not path.name.startswith("_"):
                found.setdefault(path.stem, path)
    return found


def find(name: str) -> Path:
    """The file of a configuration, from its bare name or a path to a `.py` file."""
    if name.lower().endswith(".py"):
        path = user_path(name)
        if os.path.isfile(path):
            return path
        raise UsageError(f"there is no configuration file {name!r}; check the path, or see `jaxnets list`")
    known = available()
    if name not in known:
        raise UsageError(f"there is no configuration called {name!r}. {did_you_mean(name, known)}")
    return known[name]


def load(name: str) -> Loaded:
    """Read a configuration file (which is Python, and is run) by bare name or path."""
    path = find(name)
    contents = _guarded(path, lambda: runpy.run_path(str(path), run_name=CONFIG_MODULE))
    # It stays known under its name: whoever asks for the source of a class in it, as help pages do, finds it.
    sys.modules[CONFIG_MODULE] = module = ModuleType(CONFIG_MODULE)
    vars(module).update(contents)
    function = contents.get("config")
    if not callable(function):
        raise UsageError(f"{path} has no function config(); a configuration file defines `def config() -> Experiment`")
    experiment = _guarded(path, function)
    if not isinstance(experiment, Experiment):
        raise UsageError(f"{path}: config() returned {type(experiment).__name__}, expected an Experiment")
    summary = (contents.get("__doc__") or "").strip().split("\n")[0]
    return Loaded(path.stem, experiment, contents.get("EXPECTED"), summary, contents.get("PARAMETERS"))


def _guarded(path: Path, act: Callable[[], Any]) -> Any:
    """Run a part of a configuration file; whatever it raises becomes one message with the place."""
    try:
        return act()
    except JaxnetsError as error:
        raise ConfigFileError(f"{path}: {error}") from error
    except SyntaxError as error:
        place = f", line {error.lineno}" if error.lineno else ""
        raise ConfigFileError(f"{path}{place}: {error.msg}; a configuration is Python, saved as UTF-8") from error
    except (Exception, SystemExit) as error:  # a file that ends the program has not said what to train
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise ConfigFileError(f"{place}: {type(error).__name__}: {error}") from error
