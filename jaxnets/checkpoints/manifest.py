"""The manifest of a checkpoint: digests of its contents, and the sign that it is complete.

    checkpoints/200/state/...        Orbax's files
    checkpoints/200/manifest.json    written last: digests of every leaf and every file, and data of the host

A directory without a manifest is not a checkpoint. The manifest carries a digest of itself, so that a change of any file of a
checkpoint is detected. Its content is treated as untrusted: sizes are checked before they are used, paths may not leave the
directory, and nothing is executed. No JAX is needed to check the files.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from jaxnets.core.errors import CheckpointError, first_line
from jaxnets.core.files import is_partial, replacing, sync
from jaxnets.core.renames import HOST, renamed

NAME = "manifest.json"
FORMAT = 1
# Real manifests are shorter; a longer one is not read.
LONGEST = 64 << 20


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of the state."""

    shape: tuple[int, ...]
    dtype: str
    digest: str
    """See `jaxnets.checkpoints.digest`."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return math.prod(self.shape) * _itemsize(self.dtype)


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """One file of the checkpoint."""

    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of a complete checkpoint."""

    step: int
    leaves: dict[str, Leaf]
    files: dict[str, FileEntry]
    """By path inside the checkpoint's directory, with forward slashes."""
    host: dict[str, Any]
    """Data of the host beside the state: sums of the log, pending hooks."""
    metrics: dict[str, float]
    """Test metrics measured at this step; {} if there are none."""
    about: dict[str, Any]
    """The experiment, versions and data fingerprint the state belongs to."""

    def write(self, directory: Path) -> None:
        """Write it completely or not at all, and make sure that it is on the disk."""
        data: dict[str, Any] = {"format": FORMAT, **dataclasses.asdict(self)}
        # NaN and infinities as words, which `float` reads: JSON has no numbers for them.
        data["metrics"] = {name: v if math.isfinite(v) else str(v) for name, v in self.metrics.items()}
        data["self"] = _own_digest(data)
        with replacing(directory / NAME, durable=True) as file:
            file.write(json.dumps(data, indent=1, sort_keys=True).encode())
        _sync_directory(directory)


def read(directory: Path) -> Manifest:
    """The manifest of a checkpoint; raises `CheckpointError` if it is missing, damaged or implausible."""
    path = directory / NAME
    try:
        if directory.is_symlink() or path.is_symlink():
            raise CheckpointError(f"{path} is reached by a symbolic link; a checkpoint holds its own files")
        if not directory.is_dir():
            raise CheckpointError(f"{directory} is not a directory")
        if not path.is_file():
            raise CheckpointError(f"{directory} has no {NAME}: the save was cut short, or it is no checkpoint of ours")
        if path.stat().st_size > LONGEST:
            raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes; a manifest has at most {LONGEST:,}")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON ({first_line(error)})") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is damaged: it holds {type(data).__name__}, not an object")
    if isinstance(data.get("format"), int) and data["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has format {data['format']}, written by a newer jaxnets; this one reads up to {FORMAT}: upgrade it"
        )
    claimed = data.pop("self", None)
    try:
        if claimed != _own_digest(data):
            raise CheckpointError(f"{path} is damaged: its contents do not match its own digest")
        return _parse(data, path)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged: {type(error).__name__} at {first_line(error)}; the fields are not as jaxnets writes them"
        ) from error


def list_files(directory: Path) -> dict[str, FileEntry]:
    """Size and SHA-256 of every file under a directory but the manifest; each is on the disk when this returns."""
    found = {}
    for name, path in _walk(directory).items():
        sync(path)
        found[name] = FileEntry(path.stat().st_size, _sha256(path))
    for folder in {path.parent for path in _walk(directory).values()} | {directory, directory.parent}:
        _sync_directory(folder)
    return found


def _walk(directory: Path) -> dict[str, Path]:
    """Every file under a directory but the manifest, by name; raises `CheckpointError` for anything but a plain file."""
    found = {}
    for folder, folders, names in os.walk(directory):
        for name in (*folders, *names):
            path = Path(folder) / name
            if path.is_symlink():
                raise CheckpointError(f"{path} is a symbolic link; a checkpoint holds its own files")
            if name in names and not path.is_file():
                raise CheckpointError(f"{path} is not a plain file; a checkpoint holds nothing else")
        for name in names:
            relative = (Path(folder) / name).relative_to(directory).as_posix()
            if relative != NAME and not is_partial(relative):
                found[relative] = Path(folder) / name
    return dict(sorted(found.items()))


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Raise `CheckpointError`, naming the file, unless every file matches the manifest."""
    there = _walk(directory)
    for name in there.keys() - manifest.files.keys():
        raise CheckpointError(f"{there[name]} is not in the manifest: it was added later")
    if not any(name.startswith("state/") for name in manifest.files):
        raise CheckpointError(f"{directory / NAME} lists no files of a state")
    for name, entry in manifest.files.items():
        path = directory / name
        try:
            size = path.stat().st_size
            if size != entry.size:
                raise CheckpointError(f"{path} is damaged: it has {size:,} bytes and was written with {entry.size:,}")
            if _sha256(path) != entry.sha256:
                raise CheckpointError(f"{path} is damaged: its bytes do not match their digest")
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing") from error
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error})") from error


def _parse(data: dict[str, Any], path: Path) -> Manifest:
    leaves = {
        str(name): Leaf(tuple(_count(n) for n in leaf["shape"]), str(leaf["dtype"]), str(leaf["digest"]))
        for name, leaf in data["leaves"].items()
    }
    for leaf in leaves.values():
        _itemsize(leaf.dtype)
    files = {}
    for name, entry in data["files"].items():
        parts = str(name).split("/")
        if any(part in ("", ".", "..") for part in parts) or "\\" in name or ":" in parts[0] or "\0" in name:
            raise CheckpointError(f"{path} names the file {name!r}, which is not inside the checkpoint")
        files[str(name)] = FileEntry(_count(entry["size"]), str(entry["sha256"]))
    metrics = {str(k): float(v) for k, v in data["metrics"].items()}
    return Manifest(_count(data["step"]), leaves, files, renamed(data["host"], HOST), metrics, dict(data["about"]))


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"a count is a whole number from 0, got {value!r}")
    return value


def _itemsize(dtype: str) -> int:
    if dtype.startswith("key<"):  # typed random keys
        return 16
    if not re.fullmatch(r"[a-z]+[0-9a-z_]*", dtype):  # numpy would parse this as the description of a structure
        return _unknown(dtype)
    import numpy as np

    try:
        return np.dtype(dtype).itemsize
    except TypeError:
        import ml_dtypes  # bfloat16, float8 and the like

        return np.dtype(getattr(ml_dtypes, dtype)).itemsize if dtype in dir(ml_dtypes) else _unknown(dtype)


def _unknown(dtype: str) -> int:
    raise ValueError(f"{dtype!r} is not a number format")


def _own_digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_directory(directory: Path) -> None:
    if os.name == "posix":
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
