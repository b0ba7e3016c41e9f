"""Find a data file: in the folder `JAXNETS_DATA`, in the cache, or at its canonical source.

A downloaded file is used only after its digest is checked, and gets its final name only when it is complete.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.core.files import check_plain, only_process, physical_memory, replacing, user_path


@dataclasses.dataclass(frozen=True)
class Remote:
    """One file at its canonical source."""

    url: str
    sha256: str | None = None
    """Digest of the file as served; None where the caller checks the decoded arrays instead."""


def data_directory() -> Path | None:
    """The folder `JAXNETS_DATA` names, if it is set."""
    value = os.environ.get("JAXNETS_DATA", "").strip()
    return user_path(value).absolute() if value else None


def cache_directory() -> Path:
    """Where downloads are kept: `JAXNETS_CACHE`, else `~/.cache/jaxnets`.

    Raises:
        DataError: neither is there. (A folder that other users can write to is not safe: compiled programs are read from it.)
    """
    value = os.environ.get("JAXNETS_CACHE", "").strip()
    if value:
        return user_path(value).absolute()
    try:
        return Path.home().absolute() / ".cache" / "jaxnets"
    except RuntimeError as error:
        raise DataError(
            "this user has no home directory for a cache; set JAXNETS_CACHE to a folder of yours"
        ) from error


def locate(relative: str) -> Path | None:
    """The file of this relative path under `JAXNETS_DATA` or in the cache, or None."""
    folders = [data_directory()]
    with contextlib.suppress(DataError):  # no cache: then nothing is in it
        folders.append(cache_directory() / "data")
    for folder in folders:
        if folder is not None and os.path.isfile(folder / relative):
            return folder / relative
    return None


def read_arrays(path: Path, keys: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file (all, or those named); never unpickles.

    Raises:
        DataError: the file is missing, damaged, holds Python objects or lacks a key.
    """
    path = user_path(path)
    try:
        check_plain(path)
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
            f"Make it again, or delete it and fetch it again"
        ) from error


def read_array(path: Path) -> np.ndarray:
    """The array of an `.npy` file; never unpickles, and raises `DataError` for what is none."""
    path = user_path(path)
    try:
        check_plain(path)
        with open(path, "rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise DataError(f"{path} is not a .npy file, despite its name; write one with numpy.save")
        _check_item(str(path), np.load(path, mmap_mode="r", allow_pickle=False).dtype)
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; check the path") from None
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as .npy ({type(error).__name__}: {error}); give .npy or .npz"
        ) from error


def _check_item(what: str, dtype: np.dtype) -> None:
    """Raise unless the elements are numbers or text with a size; a small file can declare any number of empty ones."""
    if dtype.itemsize < 1 or dtype.kind not in "biufcSUmM":
        raise DataError(f"{what} holds elements of dtype {dtype!r}; save numbers, booleans or text")


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
            _check_item(f"{path}: {member.filename}", dtype)
            if declared != member.file_size:
                raise DataError(
                    f"{path}: {member.filename} declares shape {shape} of {dtype}, which does not fit its "
                    f"{member.file_size:,} bytes"
                )
            total += declared
    if memory and total > memory:
        raise DataError(f"{path} unpacks to {total / 1e9:.1f} GB, and this machine has {memory / 1e9:.1f} GB of memory")


def obtain_file(relative: str, remote: Remote, unpack: Callable[[bytes], bytes] = bytes) -> Path:
    """The file of this relative path: a local one, else downloaded, checked, unpacked and cached; raises `DataError`."""
    return _keep(
        relative, lambda: unpack(download(remote, wanted_for=relative)), lambda file, content: file.write(content)
    )


def obtain(
    relative: str, remotes: tuple[Remote, ...], decode: Callable[[list[bytes]], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of a named data set: from a local file, else downloaded, decoded, checked and cached.

    Args:
        relative: path of the `.npz` under `JAXNETS_DATA` and in the cache.
        remotes: the canonical files.
        decode: turns their bytes into arrays, and raises `DataError` where those are not the published ones.
    """
    path = _keep(
        relative,
        lambda: decode([download(remote, wanted_for=relative) for remote in remotes]),
        lambda file, arrays: np.savez_compressed(file, **arrays),
    )
    return read_arrays(path)


def _keep(relative: str, fetch: Callable[[], Any], write: Callable[[BinaryIO, Any], Any]) -> Path:
    """The local file, else downloaded into the cache; of several processes that need it at the same time, one downloads it."""
    path = locate(relative)
    if path is not None:
        return path
    target = cache_directory() / "data" / relative
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with only_process(target):
            if not target.is_file():  # another process may have had it written while this one waited
                content = fetch()
                with replacing(target) as file:
                    write(file, content)
    except OSError as error:
        raise DataError(
            f"cannot keep {relative} in the cache {target.parent} ({error}); free some space there, or set JAXNETS_CACHE "
            f"to a folder that can be written"
        ) from error
    return target


def download(remote: Remote, *, wanted_for: str) -> bytes:
    """The bytes of a remote file, checked against its digest, with a progress bar on a terminal."""
    # Imported here: few runs download anything, and the import would slow down every command.
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
        looked = f"JAXNETS_DATA={folder or 'unset'}"
        looked += "" if folder is None or os.path.isdir(folder) else ", which is not a folder,"
        raise DataError(
            f"{wanted_for} is not on this machine (looked in {looked} and {cache_directory()}) "
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
