"""Files written whole or not at all, and what a file may claim of the memory there is."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


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
    """Where a file is until it is whole; of this process alone, so that two writers do not mix."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def is_partial(name: str) -> bool:
    """Whether a name is that of a file that never became whole."""
    return name.startswith(".") and name.endswith(".partial")


def physical_memory() -> int:
    """Bytes of memory of this machine; 0 where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
