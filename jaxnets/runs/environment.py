"""The environment of a run: machine, versions, mesh, data. It is written into the run directory and checked on resuming."""

import datetime
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import jax

from jaxnets.core.errors import RunDirectoryError, note
from jaxnets.core.versions import versions
from jaxnets.runs.build import Parts
from jaxnets.runs.directory import RunDirectory


def check_data(directory: RunDirectory, parts: Parts) -> None:
    """Raise unless the data are those that the run started with."""
    data = directory.read_object("environment.json").get("data")
    data = data if isinstance(data, dict) else {}
    began, tokenizer = data.get("fingerprint"), _tokenizer(parts)
    if tokenizer and data.get("tokenizer") != tokenizer:
        raise RunDirectoryError(
            f"{directory.path} was trained with another tokenizer than the one now in {', '.join(tokenizer['files'])}: its "
            f"sha256 is {tokenizer['sha256'][:16]}..., and the run began with {str(data.get('tokenizer'))[:300]}. Bring the "
            f"old files back, or train again in another --run-dir"
        )
    if began != parts.dataset.fingerprint:
        raise RunDirectoryError(
            f"{directory.path} was trained on other data: the fingerprint of {parts.dataset.name!r} was {began} and is "
            f"{parts.dataset.fingerprint} now. Bring the old data back, or train again in another --run-dir"
        )


def note_missing_callbacks(directory: RunDirectory, callbacks: Sequence[str]) -> None:
    """Print a note if a run was trained with callbacks and resumes without any: its directory has their names, not their
    code."""
    missing = [] if callbacks else _callbacks_before(directory)
    if missing:
        note(
            f"{directory.path.name} was trained with callbacks ({', '.join(missing)}) and continues without them, since a run "
            f"directory holds no code. To continue with them, give the file whose hooks() makes them (`jaxnets train FILE.py "
            f"--run-dir {directory.path}`), or hooks=[...] in Python"
        )


def write_environment(directory: RunDirectory, parts: Parts, callbacks: Sequence[str] = ()) -> None:
    """Information for repeating the run: machine, versions, mesh, data, names of callbacks."""
    device = jax.devices()[0]
    data = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "mesh": dict(parts.mesh.shape),
        "steps_per_call": parts.program.capacity,
        "data": {
            "name": parts.dataset.name,
            "fingerprint": parts.dataset.fingerprint,
            "source": parts.dataset.source,
            "resident": parts.resident,
            **({"tokenizer": tokenizer} if (tokenizer := _tokenizer(parts)) else {}),
        },
        "callbacks": list(callbacks) or _callbacks_before(directory),
        "parameters": parts.parameters,
        "python": platform.python_version(),
        "versions": versions(),
        "git": _git(),
    }
    try:
        directory.write_json("environment.json", data)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {directory.path / 'environment.json'} ({error})") from error


def _callbacks_before(directory: RunDirectory) -> list[str]:
    """The callbacks that a run was trained with so far."""
    if not (directory.path / "environment.json").exists():
        return []
    names = directory.read_object("environment.json").get("callbacks")
    return [str(name) for name in names] if isinstance(names, list) else []


def _tokenizer(parts: Parts) -> dict[str, Any]:
    """The tokenizer files; {} for characters, bytes and data other than text."""
    tokenizer = parts.dataset.tokenizer
    if tokenizer is None or not tokenizer.digest:
        return {}
    return {"files": [path.name for path in tokenizer.files.values()], "sha256": tokenizer.digest}


# Settings by which a repository makes git run a program when it looks for changes.
PROGRAMS = (
    r"^(core\.(fsmonitor|hookspath|sshcommand|pager|worktree)|filter\.|diff\.|include|extensions\.worktreeconfig)"
)


def _git() -> str:
    """Commit of the working directory, with "+" if files differ from it; empty outside a repository.

    The repository may be untrusted. If its settings name programs, only its commit is read, with "?" instead of "+".
    """
    own = _run_git("config", "--local", "--get-regexp", PROGRAMS)
    if own is None:
        return ""
    if own:
        commit = _run_git("rev-parse", "--short=12", "HEAD")
        return f"{commit}?" if commit else ""
    return _run_git("describe", "--always", "--dirty=+", "--abbrev=12") or ""


def _run_git(*arguments: str) -> str | None:
    """The output of git; None if there is no git or it takes too long."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", errors="replace", timeout=5)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
