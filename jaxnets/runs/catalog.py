"""Run directories as plain data, for the commands that look at many runs. Needs no JAX and runs no code of a configuration."""

import contextlib
import dataclasses
import functools
import json
import operator
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnets.checkpoints.step_folders import StepFolders
from jaxnets.core.errors import JaxnetsError, RunDirectoryError, UsageError, did_you_mean
from jaxnets.core.files import user_path
from jaxnets.core.flatten import flatten
from jaxnets.report.history import History
from jaxnets.report.log import CHOSEN, read_records
from jaxnets.runs import lock

CONFIG, LOG, REPORT = "config.json", "metrics.jsonl", "report.html"
# The depth to which runs are searched below a folder.
DEPTH = 4
# Fields of a record that are not scores.
NO_SCORES = ("step", "split", "examples", CHOSEN, "seconds")
_FILTER = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "=": operator.eq, "!=": operator.ne,
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Entry:
    """One run directory."""

    path: Path
    name: str
    """Its path below the folder that was searched."""
    config: Mapping[str, Any]
    """`config.json`; {} if it cannot be read."""
    records: tuple[dict[str, Any], ...]
    """The log; () if it cannot be read."""
    trouble: str = ""
    """The reason why something could not be read."""

    @property
    def history(self) -> History:
        """The log, for plots."""
        return History(self.records)

    @functools.cached_property
    def step(self) -> int:
        """Updates done, according to the log and the checkpoints."""
        saved = StepFolders(self.path / "checkpoints").complete
        return max([0, *saved, *(record["step"] for record in self.records)])

    @property
    def state(self) -> str:
        """ "training", "complete", "stopped", "begun" (nothing is logged yet) or "damaged"."""
        if self.trouble:
            return "damaged"
        if is_held(self.path):
            return "training"
        report, log = self.path / REPORT, self.path / LOG
        with contextlib.suppress(OSError):
            tested = any(CHOSEN in r and r["step"] == self.step for r in self.records[-3:])
            over = tested or self.step >= self.config.get("steps", 0)
            if over or report.stat().st_mtime >= log.stat().st_mtime:
                return "complete" if report.exists() else "stopped"
        return "stopped" if self.records or self.step else "begun"

    @property
    def scores(self) -> dict[str, float]:
        """The newest numbers of the test split, else of the validation split, else of training."""
        history = self.history
        last = history.last("test") or history.last("validation") or history.last("train")
        return {name: value for name, value in last.items() if name not in NO_SCORES and isinstance(value, int | float)}

    @functools.cached_property
    def fields(self) -> dict[str, Any]:
        """The fields for sorting and filtering a table: name, state, step, scores, and the configuration by dotted names."""
        flat = flatten(self.config)
        own = {"name": self.name, "state": self.state, "step": self.step, "model": flat.get("task.model", "")}
        return {**flat, **own, "task": flat.get("task", ""), "data": flat.get("data", ""), **self.scores}

    @property
    def modified(self) -> float:
        """The time of the last change, in seconds since 1970."""
        times = [0.0]
        for name in (LOG, CONFIG):
            with contextlib.suppress(OSError):
                times.append((self.path / name).stat().st_mtime)
        return max(times)


def is_held(directory: Path) -> bool:
    """Whether a process seems to train in a directory, by the age of its heartbeat."""
    try:
        beat = float(json.loads((directory / lock.NAME).read_bytes()[: lock.LENGTH])["beat"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False
    return abs(time.time() - beat) < lock.STALE_SECONDS


# Entries by path, each with the sizes and times of its files: a page that is updated every few seconds reads only changed
# files.
_READ: dict[Path, tuple[Any, Entry]] = {}


def read(path: Path, name: str) -> Entry:
    """A run directory; what cannot be read is named in `trouble`. A run whose files have not changed is not read again."""
    stamp = [name]
    for file in (path / CONFIG, path / LOG, path / "checkpoints"):
        with contextlib.suppress(OSError):
            about = file.stat()
            stamp += [str(about.st_mtime_ns), str(about.st_size)]
    known = _READ.get(path)
    if known is None or known[0] != stamp:
        known = _READ[path] = (stamp, _read(path, name))
    return known[1]


def _read(path: Path, name: str) -> Entry:
    config: Any = {}
    records: Sequence[dict[str, Any]] = ()
    trouble = ""
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            config, trouble = {}, f"{CONFIG} holds no object"
        if (path / LOG).exists():
            records = read_records(path / LOG)
    except (OSError, ValueError, RecursionError) as error:
        trouble = f"{CONFIG}: {type(error).__name__}"
    except JaxnetsError as error:
        trouble = str(error)
    if not isinstance(config.get("steps", 0), int):
        config, trouble = {}, f"{CONFIG}: steps is not a number"
    return Entry(path, name, config, tuple(records), trouble)


def find(folder: Path | str) -> list[Entry]:
    """The runs in a folder and below, by name; a run directory itself counts as one."""
    root = user_path(folder).absolute()
    if not root.is_dir():
        raise UsageError(f"there is no folder {str(folder)!r}; give the folder that holds run directories")
    found = [read(path, path.relative_to(root).as_posix()) for path in _directories(root, DEPTH)]
    return [dataclasses.replace(entry, name=root.name) if entry.name == "." else entry for entry in found]


def existing(path: Path | str) -> Entry:
    """One run; raises `RunDirectoryError` where the path holds none."""
    place = user_path(path)
    if not (place / CONFIG).is_file():
        raise RunDirectoryError(f"{str(path)!r} holds no run (no {CONFIG}); give the directory of a run")
    return read(place, str(path).rstrip("/"))


def _directories(folder: Path, depth: int) -> Iterator[Path]:
    """Folders with a configuration in them; nothing below one is looked at, and no symbolic link is followed."""
    if (folder / CONFIG).is_file():
        yield folder
        return
    if not depth:
        return
    with contextlib.suppress(OSError):
        inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
        for name in inside:
            if not name.startswith("."):
                yield from _directories(folder / name, depth - 1)


def matching(entries: Sequence[Entry], where: Sequence[str]) -> list[Entry]:
    """The runs that satisfy every condition, such as `accuracy>0.9`, `state=complete`, `optimizer.learning_rate<=1e-3`.

    A run without the field does not.

    Raises:
        UsageError: a condition cannot be read, or names a field that no run has.
    """
    kept = list(entries)
    for condition in where:
        parsed = _FILTER.fullmatch(condition)
        if parsed is None:
            raise UsageError(
                f"{condition!r} is not a condition; write NAME, one of < <= = == != >= >, and a value: accuracy>0.9"
            )
        field, sign, value = parsed.groups()
        check_field(entries, field)
        kept = [entry for entry in kept if _holds(entry.fields.get(field), sign, value)]
    return kept


def ordered(entries: Sequence[Entry], field: str, *, reverse: bool = False) -> list[Entry]:
    """The runs sorted by a field, numbers before texts; runs without it come last."""
    check_field(entries, field)
    having = [entry for entry in entries if _has(entry, field)]

    def key(entry: Entry) -> tuple[bool, Any]:
        value = entry.fields[field]
        number = isinstance(value, int | float)
        return (not number, value if number else str(value))

    return sorted(having, key=key, reverse=reverse) + [entry for entry in entries if not _has(entry, field)]


def check_field(entries: Sequence[Entry], field: str) -> None:
    """Raise `UsageError` for a field that no run has."""
    known = dict.fromkeys(name for entry in entries for name in entry.fields)
    if entries and field not in known:
        raise UsageError(f"no run has the field {field!r}. {did_you_mean(field, known)}")


def _has(entry: Entry, field: str) -> bool:
    value = entry.fields.get(field)
    return value is not None and value == value  # not NaN


def _holds(value: Any, sign: str, wanted: str) -> bool:
    if value is None:
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return _OPERATORS[sign](value, float(wanted))
        except ValueError:
            return sign == "!="
    return _OPERATORS[sign](str(value).lower(), wanted.lower())
