"""The experiment: one frozen dataclass that says everything about a run, and how it is written down and read back.

An experiment is written as a Python file with a function `config()`; it is saved as data (`config.json`), in which every
object carries the name of its class. Reading that file looks names up in the table below and nowhere else, so it can
never run code.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import numbers
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from jaxnets.code_digest import described, without_code
from jaxnets.data.dataset import Source
from jaxnets.data.preparation import CLASSES
from jaxnets.errors import ConfigFileError, JaxnetsError, UsageError, did_you_mean
from jaxnets.files import user_path
from jaxnets.optim.averaging import EMA
from jaxnets.optim.optimizers import AdamW, Optimizer
from jaxnets.parallel.mesh import MeshShape
from jaxnets.tasks.base import Task
from jaxnets.training.guards import Guard
from jaxnets.training.precision import Precision
from jaxnets.training.retention import Keep, seconds_between_saves
from jaxnets.training.warm_start import WarmStart
from jaxnets.typecheck import annotations, fits, in_words

# Where the classes that a saved configuration may name are found.
BUILT_IN = ("jaxnets.models", "jaxnets.tasks", "jaxnets.data", "jaxnets.optim")
# The name of a configuration file as a module.
CONFIG_MODULE = "jaxnets_config"
# Fields that every Linen module has beside its own.
LINEN_FIELDS = ("parent", "name")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training run."""

    task: Task
    """What is learned: a task, holding its model."""
    data: Source
    """What it is learned from."""
    optimizer: Optimizer = AdamW()
    """How the weights move."""
    steps: int = 1000
    """Optimizer steps; also the length of the learning-rate schedule."""
    batch_size: int = 128
    """Examples in each step, over all devices."""
    micro_batches: int = 1
    """Parts each batch is processed in, to save memory: the same update, save for dropout's draws and batch statistics."""
    seed: int = 0
    """Root of all randomness: initial weights, order of the data, dropout, augmentation."""
    average: EMA = EMA()
    """Averaging of the weights for evaluation."""
    precision: Precision = Precision()
    """Number formats."""
    mesh: MeshShape = MeshShape()
    """How the devices are arranged."""
    log_every: int = 50
    """Steps between lines of the training log."""
    eval_every: int = 0
    """Steps between evaluations on the test split; 0 evaluates at the end only."""
    eval_batch_size: int = 512
    """Examples in each evaluation batch; has no influence on the result."""
    save_every: int | str = "5min"
    """Between checkpoints: a number of steps, or a time such as "10min", "90s" or "2h"; 0 saves at the end only."""
    keep: Keep = Keep()
    """Which checkpoints stay."""
    warm_start: WarmStart = WarmStart()
    """Weights of another run to begin with."""
    steps_per_call: int = 0
    """Steps in one dispatch to the device; 0 chooses by their size. Has no influence on the result."""
    placement: Literal["auto", "device", "host"] = "auto"
    """Where the data live: on the device, or streamed from the host; auto takes the device if they are under 1 GiB."""
    on_nonfinite: Literal["halt", "skip", "rollback"] = "halt"
    """What a step with a NaN or infinite loss does: stop the run, leave that step out, or go back to a checkpoint and leave
    out the batches before it as well (guard.leave_out)."""
    guard: Guard = Guard()
    """Watch for spikes of the loss."""
    deterministic: bool = False
    """On a GPU, use only operations that give the same bits each time, at some cost; CPU and TPU always do."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("steps", "batch_size", "micro_batches", "eval_batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is at least 1, got {getattr(self, name)}")
        seconds_between_saves(self.save_every)
        for name in ("eval_every", "steps_per_call", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is at least 0, got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise UsageError(f"seed is below 2^32, got {self.seed}")


@dataclasses.dataclass(frozen=True)
class Expected:
    """The score a shipped configuration reaches, and what that takes."""

    metric: str
    at_least: float | None
    """The score itself where more is better."""
    minutes: float
    """Wall time on two CPU cores unless `hardware` says otherwise."""
    hardware: str = "2 CPU cores"
    at_most: float | None = None
    """The score where less is better."""

    @property
    def score(self) -> str:
        """The number, as one writes it."""
        return f"{self.at_least if self.at_least is not None else self.at_most:g}"

    def __str__(self) -> str:
        return f"{self.metric} {'≥' if self.at_least is not None else '≤'} {self.score}"

    def reached(self, score: float) -> bool:
        """Whether a score is as good as expected."""
        return score >= self.at_least if self.at_least is not None else score <= (self.at_most or 0.0)


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
    package = Path(__file__).resolve().parent
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


def to_data(value: Any) -> Any:
    """A configuration object as JSON data; "type" says the class: its bare name, or `module:name` and a digest of its code."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if field.init and not _linen_own(value, field.name)]
        own = {} if built_ins().get(type(value).__name__) is type(value) else described(type(value))
        name = {"type": type(value).__name__, **own}
        return name | {field.name: to_data(getattr(value, field.name)) for field in fields}
    if isinstance(value, tuple | list):
        return [to_data(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, numbers.Real):  # numpy's
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if callable(value):
        return described(value)
    raise UsageError(
        f"a configuration holds dataclasses, numbers, text, functions and tuples, not {type(value).__name__}"
    )


def from_data(data: Any) -> Any:
    """The inverse of `to_data`; raises `UsageError` for an unknown class or field, or a wrong type. Never runs code."""
    if isinstance(data, list):
        return tuple(from_data(item) for item in data)
    if not isinstance(data, dict):
        return data
    known = built_ins()
    name = data.get("type")
    if isinstance(name, str) and ":" in name:
        raise UsageError(
            f"{name!r} is a class of your own, which the saved configuration only names, never runs. Give the file that "
            f"defines it instead: `jaxnets train FILE.py --run-dir ...` goes on with the run, or shows it if it is complete"
        )
    if not isinstance(name, str) or name not in known:
        raise UsageError(f"the configuration names {name!r}, which is not built in. {did_you_mean(str(name), known)}")
    cls = known[name]
    fields = {field.name for field in dataclasses.fields(cls) if field.init and not _linen_own(cls, field.name)}
    given = {key: value for key, value in data.items() if key != "type"}
    for key in given:
        if key not in fields:
            raise UsageError(f"{name} has no field {key!r}. {did_you_mean(key, fields)}")
    values = {key: from_data(value) for key, value in given.items()}
    _check_values(cls, values)
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from error


def _linen_own(value: Any, field: str) -> bool:
    return field in LINEN_FIELDS and hasattr(value, "apply")


@functools.cache
def built_ins() -> dict[str, type]:
    """The classes a saved configuration may name."""
    found: dict[str, type] = {
        cls.__name__: cls for cls in (Experiment, EMA, MeshShape, Precision, Keep, WarmStart, Guard, *CLASSES)
    }
    for module_name in BUILT_IN:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            item = getattr(module, name)
            if isinstance(item, type) and dataclasses.is_dataclass(item):
                found[name] = item
    return found


# What decides where and how a run is executed and shown, not what it computes: a run may go on with other values.
INCIDENTAL = ("mesh", "log_every", "eval_every", "eval_batch_size", "save_every", "keep", "steps_per_call", "placement")


def essential(data: dict[str, Any]) -> dict[str, Any]:
    """An experiment's data without the fields that do not decide what it computes."""
    return {key: value for key, value in data.items() if key not in INCIDENTAL}


def digest(experiment: Experiment) -> str:
    """Eight hex digits that differ between experiments that compute different things."""
    return hashlib.sha256(
        json.dumps(without_code(essential(to_data(experiment))), sort_keys=True).encode()
    ).hexdigest()[:8]


def differences(saved: Any, wanted: Any, prefix: str = "") -> list[str]:
    """What differs between two configurations as data, one line for each field."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        lines = []
        for key in sorted(saved.keys() | wanted.keys()):
            lines += differences(saved.get(key), wanted.get(key), f"{prefix}.{key}" if prefix else key)
        return lines
    return [] if saved == wanted else [f"{prefix}: {saved!r} there, {wanted!r} here"]


def check_types(value: Any) -> None:
    """Raise `UsageError` unless the fields of a dataclass, and of those within it, hold what their annotations say."""
    names = [field.name for field in dataclasses.fields(value) if field.init and not _linen_own(value, field.name)]
    values = {name: getattr(value, name) for name in names}
    _check_values(type(value), values)
    for item in values.values():
        for part in item if isinstance(item, tuple | list) else (item,):
            if dataclasses.is_dataclass(part) and not isinstance(part, type):
                check_types(part)


def _check_values(cls: type, values: dict[str, Any]) -> None:
    for name, hint in annotations(cls).items():
        if name in values and not fits(values[name], hint):
            item = values[name]
            raise UsageError(f"{cls.__name__}.{name} is {in_words(hint)}, got {item!r} ({type(item).__name__})")
