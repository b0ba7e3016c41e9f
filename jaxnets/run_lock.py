"""One run directory, one run: a lock that says who holds it, and that a crash cannot leave behind for good.

The file `.lock` in the run directory holds the host, the process and a heartbeat. On one machine the operating system's own
file lock decides, which ends with the process however it ends. From another machine (a shared disk may not pass such locks
on) the heartbeat decides: it is renewed every few seconds; one that has not been for a minute, and is not while one watches,
is stale.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxnets.errors import LockedError, RunDirectoryError

NAME = ".lock"
BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


@contextlib.contextmanager
def hold(directory: Path, *, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Hold a run directory (made if it is not there) while training in it.

    Raises:
        LockedError: another process holds it; the message says which.
        RunDirectoryError: the lock cannot be written.
    """
    path = directory / NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle, free = _open(path)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write the run directory {directory} ({error}); choose another with --run-dir, or get permission and "
            f"space there"
        ) from error
    try:
        before = _read(handle)
        if not free:
            raise LockedError(_taken(directory, before))
        if before and before.get("host") != socket.gethostname():
            age = time.time() - float(before.get("beat", 0))
            # Two clocks need not agree, and one may have been set: whether it still beats is seen by watching.
            if 0 <= age < STALE_SECONDS or _still_beats(handle, before):
                raise LockedError(_taken(directory, before))
            say(f"taking over {directory}: {_holder(before)} has not been heard of for {age:.0f} s")
        elif before:
            say(f"taking over {directory}: {_holder(before)} ended without saying goodbye")
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
        _write(handle, mine)
        done = threading.Event()
        beat = threading.Thread(target=_beat, args=(handle, mine, done), name="jaxnets-heartbeat", daemon=True)
        beat.start()
        try:
            yield
        finally:
            done.set()
            beat.join()
            with contextlib.suppress(OSError):
                path.unlink()
    finally:
        os.close(handle)


def _open(path: Path) -> tuple[int, bool]:
    """The lock file, open, and whether its lock was free and is ours now."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        if not _lock(handle):
            return handle, False
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle, True
        os.close(handle)  # its holder let go and removed it while we looked: this is not the file that others will find


def _still_beats(handle: int, before: dict[str, Any]) -> bool:
    """Whether the lock's text changes within two heartbeats."""
    end = time.monotonic() + 2 * BEAT_SECONDS
    while time.monotonic() < end:
        time.sleep(BEAT_SECONDS / 10)
        if _read(handle) != before:
            return True
    return False


def _beat(handle: int, mine: dict[str, Any], done: threading.Event) -> None:
    while not done.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):  # a full disk is for the training log to report
            _write(handle, mine)


def _write(handle: int, mine: dict[str, Any]) -> None:
    text = json.dumps({**mine, "beat": time.time()}).encode()
    os.pwrite(handle, text.ljust(512), 0)  # one size, so that a reader never sees the rest of an older text


def _read(handle: int) -> dict[str, Any]:
    """What the last holder wrote; {} where it let go, or where the text is not one of ours."""
    try:
        data = json.loads(os.pread(handle, 512, 0))
        float(data.get("beat", 0))
    except (ValueError, TypeError, AttributeError, OSError):
        return {}
    return data if isinstance(data, dict) else {}


def _lock(handle: int) -> bool:
    """The operating system's lock; True where there is none to be had, and the heartbeat alone must do."""
    fcntl = _fcntl()
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _fcntl() -> ModuleType | None:
    try:
        import fcntl
    except ImportError:
        return None
    return fcntl


def _holder(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on {str(holder.get('host', 'an unknown host'))[:100]!r}"


def _taken(directory: Path, holder: dict[str, Any]) -> str:
    beat = f", last heard of {time.time() - float(holder['beat']):.0f} s ago" if "beat" in holder else ""
    return (
        f"{directory} is in use by {_holder(holder)}{beat}; two runs in one directory would destroy each other's work. "
        f"Wait for it or end it, or choose another --run-dir. (A lock whose process is gone is taken over: at once on the "
        f"same machine, after {STALE_SECONDS:.0f} s without a sign from another)"
    )
