"""Configuration files: found by name, loaded by running them."""

import dataclasses
import json
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxnets.config.experiment import Expected, Experiment
from jaxnets.config.extension import read_extensions
from jaxnets.config.serialize import from_data
from jaxnets.core.errors import ConfigFileError, JaxnetsError, UsageError, did_you_mean
from jaxnets.core.files import user_path

# The configuration in a run directory.
SAVED = "config.json"
# The name of a configuration file as a module.
CONFIG_MODULE = "jaxnets_config"


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A configuration file, read."""

    name: str
    """The file's name without its ending; the run directory is called after it."""
    experiment: Experiment
    """What the file's `config()` returned."""
    expected: Expected | None
    """The score that the file promises, if it promises one."""
    summary: str
    """First line of the file's docstring."""
    parameters: int | None = None
    """Number of parameters of the model as shipped, if the file defines PARAMETERS; counting them would need the data and
    JAX."""
    hooks: Callable[[], Any] = list
    """Makes the callbacks of the run: the file's `hooks()`, if it has one."""
    directory: Path | None = None
    """The run directory that it was read from, instead of a file."""


def shipped() -> dict[str, Path]:
    """The configurations that come with jaxnets, by bare name: inside the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return _in_folder(inside if inside.is_dir() else package.parent / "configs")


def nearby() -> dict[str, Path]:
    """The configurations in `./configs`, by bare name, without the shipped ones. They are run only by name."""
    ours = set(shipped().values())
    return {name: path for name, path in _in_folder(Path("configs").absolute()).items() if path.resolve() not in ours}


def available() -> dict[str, Path]:
    """All configurations that have a bare name."""
    return {**nearby(), **shipped()}


def _in_folder(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")}


def find(name: str) -> Path:
    """The file of a configuration, from its bare name or a path to a `.py` file."""
    if name.lower().endswith(".py"):
        path = user_path(name)
        if os.path.isfile(path):
            return path
        raise UsageError(f"there is no configuration file {name!r}; check the path, or see `jaxnets list`")
    ours, theirs = shipped(), nearby()
    if name in ours and name in theirs:
        raise UsageError(
            f"{name!r} is a configuration of jaxnets and the file {theirs[name]}; give that file by its path "
            f"(configs/{name}.py), or rename it or work in another folder to use the one of jaxnets"
        )
    known = {**theirs, **ours}
    if name not in known:
        raise UsageError(f"there is no configuration called {name!r}. {did_you_mean(name, known)}")
    return known[name]


def load(name: str) -> Loaded:
    """Read a configuration file (which is Python, and is run) by bare name or path, or that of a run directory."""
    if os.path.isfile(user_path(name) / SAVED) and name not in available():
        return _of_run(user_path(name))
    path = find(name)
    contents = _guarded(path, lambda: runpy.run_path(str(path), run_name=CONFIG_MODULE))
    # It stays in `sys.modules` under its name, so that the source of its classes can be found, for help pages for example.
    sys.modules[CONFIG_MODULE] = module = ModuleType(CONFIG_MODULE)
    vars(module).update(contents)
    function = contents.get("config")
    if not callable(function):
        raise UsageError(f"{path} has no function config(); a configuration file defines `def config() -> Experiment`")
    experiment = _guarded(path, function)
    if not isinstance(experiment, Experiment):
        raise UsageError(f"{path}: config() returned {type(experiment).__name__}, expected an Experiment")
    summary = (contents.get("__doc__") or "").strip().split("\n")[0]
    make = contents.get("hooks", list)
    if not callable(make):
        raise UsageError(f"{path}: hooks is a function that returns a list of callbacks, got {type(make).__name__}")
    return Loaded(
        path.stem,
        experiment,
        contents.get("EXPECTED"),
        summary,
        contents.get("PARAMETERS"),
        lambda: list(_guarded(path, make) or ()),
    )


def _of_run(directory: Path) -> Loaded:
    """The experiment of a run, with the number of steps that it was configured for."""
    try:
        data = json.loads((directory / SAVED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{directory / SAVED} cannot be read ({error}); restore it, or train again") from error
    experiment = from_data(data)
    if not isinstance(experiment, Experiment):
        raise UsageError(f"{directory / SAVED} describes a {type(experiment).__name__}, not an experiment")
    extended = read_extensions(directory)
    if extended:
        experiment = dataclasses.replace(experiment, steps=extended[0]["before"])
    return Loaded(directory.name, experiment, None, "", directory=directory)


def _guarded(path: Path, act: Callable[[], Any]) -> Any:
    """Run a part of a configuration file; any exception becomes one message with the place."""
    try:
        return act()
    except JaxnetsError as error:
        raise ConfigFileError(f"{path}: {error}") from error
    except SyntaxError as error:
        place = f", line {error.lineno}" if error.lineno else ""
        raise ConfigFileError(f"{path}{place}: {error.msg}; a configuration is Python, saved as UTF-8") from error
    except (Exception, SystemExit) as error:  # a file that ends the program defines no experiment
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise ConfigFileError(f"{place}: {type(error).__name__}: {error}") from error
