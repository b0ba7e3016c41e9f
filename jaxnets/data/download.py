"""Find a data file: where `JAXNETS_DATA` points, in the cache, or at its canonical source.

Nothing downloaded is used before its digest is checked, and nothing is written under its final name before it is whole.
"""

import dataclasses
import hashlib
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxnets.errors import DataError
from jaxnets.files import physical_memory, replacing


@dataclasses.dataclass(frozen=True)
class Remote:
    """One file at its canonical source."""

    url: str
    sha256: str | None = None
    """Digest of the file as served; None where the caller checks the decoded arrays instead."""


def data_directory() -> Path | None:
    """The folder `JAXNETS_DATA` names, if it is set."""
    value = os.environ.get("JAXNETS_DATA")
    return Path(value) if value else None


def cache_directory() -> Path:
    """Where downloads are kept: `JAXNETS_CACHE`, else `~/.cache/jaxnets`."""
    return Path(os.environ.get("JAXNETS_CACHE") or Path.home() / ".cache" / "jaxnets")


def locate(relative: str) -> Path | None:
    """The file of this relative path under `JAXNETS_DATA` or in the cache, or None."""
    for folder in (data_directory(), cache_directory() / "data"):
        if folder is not None and (folder / relative).is_file():
            return folder / relative
    return None


def read_arrays(path: Path, keys: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file (all, or those named); never unpickles.

    Raises:
        DataError: the file is missing, damaged, holds Python objects or lacks a key.
    """
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise DataError(f"{path} has no array {missing[0]!r}; it holds {', '.join(archive.files)}")
            return {key: archive[key] for key in (keys or archive.files)}
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; check the path") from None
    except DataError:
        raise
    except Exception as error:  # numpy and zipfile raise half a dozen types on damaged bytes
        raise DataError(
            f"{path} cannot be read as .npz ({type(error).__name__}: {error}); it is damaged or of another format. "
            f"Make it anew, or delete it and fetch it again"
        ) from error


def read_array(path: Path) -> np.ndarray:
    """The array of an `.npy` file; never unpickles, and raises `DataError` for what is none."""
    try:
        with open(path, "rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise DataError(f"{path} is no .npy file, whatever its name says; write one with numpy.save")
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; check the path") from None
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as .npy ({type(error).__name__}: {error}); give .npy or .npz"
        ) from error


def _check_sizes(path: Path) -> None:
    """Raise unless every array of an `.npz` has the bytes it declares, and all of them together fit into memory.

    A few bytes can declare an array larger than any memory, or unpack to one; nothing has been allocated yet here.
    """
    total, memory = 0, physical_memory()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise DataError(f"{path}: {member.filename} has a header of a kind that plain arrays do not need")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                declared = file.tell() + math.prod(shape) * dtype.itemsize
            if dtype.hasobject:
                raise DataError(f"{path}: {member.filename} holds Python objects, which are code; it is not read")
            if declared != member.file_size:
                raise DataError(
                    f"{path}: {member.filename} declares shape {shape} of {dtype}, which does not fit its "
                    f"{member.file_size:,} bytes"
                )
            total += declared
    if memory and total > memory:
        raise DataError(f"{path} unpacks to {total / 1e9:.1f} GB, and this machine has {memory / 1e9:.1f} GB of memory")


def obtain_file(relative: str, remote: Remote, unpack: Callable[[bytes], bytes] = bytes) -> Path:
    """The file of this relative path: at hand, else downloaded, checked, unpacked and cached; raises `DataError`."""
    path = locate(relative)
    if path is not None:
        return path
    content = unpack(download(remote, wanted_for=relative))
    target = cache_directory() / "data" / relative
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            file.write(content)
    except OSError as error:
        raise DataError(f"cannot keep {target} ({error}); set JAXNETS_CACHE to a place that can be written") from error
    return target


def obtain(
    relative: str, remotes: tuple[Remote, ...], decode: Callable[[list[bytes]], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of a named data set: from a file at hand, else downloaded, decoded, checked and cached.

    Args:
        relative: path of the `.npz` under `JAXNETS_DATA` and in the cache.
        remotes: the canonical files.
        decode: turns their bytes into arrays, and raises `DataError` where those are not the published ones.
    """
    path = locate(relative)
    if path is not None:
        return read_arrays(path)
    target = cache_directory() / "data" / relative
    arrays = decode([download(remote, wanted_for=relative) for remote in remotes])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise DataError(
            f"cannot keep {relative} in the cache {target.parent} ({error}); free some space there, or set JAXNETS_CACHE "
            f"to a folder that can be written"
        ) from error
    return arrays


def download(remote: Remote, *, wanted_for: str) -> bytes:
    """The bytes of a remote file, checked against its digest, with a progress bar on a terminal."""
    # Imported here: few runs download anything, and every command line would pay for it.
    import urllib.request

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    name = remote.url.rsplit("/", 1)[-1]
    chunks = []
    try:
        with urllib.request.urlopen(remote.url, timeout=30) as response:
            columns = (TextColumn(f"download {name}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            with Progress(*columns, transient=True) as progress:
                bar = progress.add_task(name, total=int(response.headers.get("Content-Length") or 0) or None)
                while chunk := response.read(1 << 18):
                    chunks.append(chunk)
                    progress.advance(bar, len(chunk))
    except OSError as error:  # urllib's own errors are OSErrors
        folder = data_directory()
        raise DataError(
            f"{wanted_for} is not on this machine (looked in JAXNETS_DATA={folder or 'unset'} and {cache_directory()}) "
            f"and {remote.url} cannot be read ({error}). Connect to the network, or set JAXNETS_DATA to a folder that "
            f"holds {wanted_for}"
        ) from error
    content = b"".join(chunks)
    digest = hashlib.sha256(content).hexdigest()
    if remote.sha256 is not None and digest != remote.sha256:
        raise DataError(
            f"{remote.url} has sha256 {digest}, expected {remote.sha256}: the download is damaged or the source changed. "
            f"Try again; nothing was kept"
        )
    return content


def check_digests(name: str, arrays: dict[str, np.ndarray], expected: dict[str, str]) -> None:
    """Raise `DataError` unless each array's bytes have the published sha256."""
    for key, digest in expected.items():
        found = hashlib.sha256(np.ascontiguousarray(arrays[key]).tobytes()).hexdigest()
        if found != digest:
            raise DataError(f"{name}: array {key!r} has sha256 {found}, expected {digest}; the download is damaged")
