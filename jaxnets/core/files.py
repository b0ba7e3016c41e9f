"""Files that are written completely or not at all, and the memory that a file may use."""

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
    """A path as users write it: `~` is the home directory, which a shell does not expand after an equals sign or in a file.

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
    """Raise `DataError` for a device, a pipe or a socket, which may be endless; a missing file is left to the reader."""
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
    """A file to write to; it replaces `path` if the block ends without an error. Otherwise `path` is unchanged.

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
    """The path of a file until it is complete; unique to this writer on any machine, so that two do not mix."""
    return path.with_name(f".{path.name[:40]}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")


def is_partial(name: str) -> bool:
    """Whether a name is that of an unfinished file."""
    return name.startswith(".") and name.endswith(".partial")


def sync(path: Path) -> None:
    """Return when a file's bytes are on the disk."""
    # Windows does this only for a file that is open for writing; on other systems the user's own file may be read-only.
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
    """Wait until no other process works on a file, by a lock file beside it (`.NAME.lock`); without file locks, do not
    wait."""
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
    """Bytes of memory of this machine; 0 if they are unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
