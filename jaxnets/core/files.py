"""Files written whole or not at all, and what a file may claim of the memory there is."""

import contextlib
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from jaxnets.core.errors import DataError, RunDirectoryError, UsageError


def user_path(text: str | os.PathLike[str]) -> Path:
    """A path as people write it: `~` is their home, which a shell does not put in after an equals sign, nor in a file.

    Raises:
        UsageError: it begins with `~/`, and this user has no home.
    """
    path = Path(os.path.expanduser(text))
    if path.parts[:1] == ("~",):
        raise UsageError(
            f"{os.fspath(text)!r} is in the home of this user, who has none; set HOME, or write the path in full"
        )
    return path


def check_plain(path: Path) -> None:
    """Raise `DataError` for a device, a pipe or a socket, which may have no end; what is not there is left to the reader."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path} is a device, a pipe or a socket, not a plain file; save what it gives in a file first")


def check_name(directory: Path) -> None:
    """Raise `RunDirectoryError` for a path that is no text in Unicode, by which checkpoints cannot be written."""
    try:
        str(directory.absolute()).encode()
    except UnicodeEncodeError as error:
        raise RunDirectoryError(
            f"the path {str(directory)!r} cannot be read in the encoding of this system's file names "
            f"({sys.getfilesystemencoding()}), and checkpoints have no place under it; choose a name in plain ASCII, or set "
            f"PYTHONUTF8=1 where it is UTF-8"
        ) from error


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write in; it takes the place of `path` when the block ends well. Else `path` is as it was.

    Args:
        path: its folder must be there.
        durable: return only when the bytes are on the disk.
    """
    partial = partial_name(path)
    try:
        with partial.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def partial_name(path: Path) -> Path:
    """Where a file is until it is whole; of this writer alone, on whatever machine, so that two do not mix."""
    return path.with_name(f".{path.name[:40]}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")


def is_partial(name: str) -> bool:
    """Whether a name is that of a file that never became whole."""
    return name.startswith(".") and name.endswith(".partial")


def sync(path: Path) -> None:
    """Return when a file's bytes are on the disk."""
    # Windows does this only for a file that is open for writing; elsewhere a file may be one's own and yet read-only.
    with path.open("r+b" if sys.platform == "win32" else "rb") as file:
        os.fsync(file.fileno())


def fcntl_module() -> ModuleType | None:
    """The module of POSIX file locks; None where there is none, as on Windows."""
    try:
        import fcntl
    except ImportError:
        return None
    return fcntl


@contextlib.contextmanager
def only_process(path: Path) -> Iterator[None]:
    """Wait until no other process is at work on a file (made beside it: `.NAME.lock`); where nothing locks, do not wait."""
    fcntl, handle = fcntl_module(), None
    if fcntl is not None:
        with contextlib.suppress(OSError):
            handle = os.open(path.with_name(f".{path.name[:40]}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)  # which unlocks it


def physical_memory() -> int:
    """Bytes of memory of this machine; 0 where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
