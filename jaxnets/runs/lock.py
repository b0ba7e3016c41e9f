"""The lock of a run directory: it names its holder, and a crash does not leave it locked forever.

The file `.lock` in the run directory holds the host, the process and a heartbeat. On one machine the file lock of the
operating system decides, which is released whenever the process ends. If file locks are not available, or the holder is on
another machine (a shared disk may not support such locks), the heartbeat decides: it is renewed every few seconds. A heartbeat
that is older than a minute, and is not renewed while it is watched, is stale.
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
from typing import Any, Literal

from jaxnets.core import streams
from jaxnets.core.errors import LockedError, RunDirectoryError
from jaxnets.core.files import check_name, fcntl_module

NAME = ".lock"
BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
# Every text has this length, so that it overwrites an older one completely.
LENGTH = 512
# Follow no link, and (on Windows) write bytes as they are.
EXTRA_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

Answer = Literal["ours", "taken", "unknown"]


@contextlib.contextmanager
def hold(directory: Path, *, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Hold a run directory (made if it is not there) while training in it.

    Raises:
        LockedError: another process holds it; the message says which.
        RunDirectoryError: the lock cannot be written, or the directory has a name that checkpoints cannot be under.
    """
    check_name(directory)
    path = directory / NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle, answer = _open(path)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write the run directory {directory} ({error}); choose another with --run-dir, or get permission and "
            f"space there"
        ) from error
    try:
        before = _read(handle)
        if answer == "taken":
            raise LockedError(_taken(directory, before))
        here = before.get("host") == socket.gethostname()
        if before and not (here and answer == "ours"):
            age = time.time() - float(before["beat"])
            # Two clocks need not agree, and one may have been changed, so watch whether the heartbeat is renewed.
            if 0 <= age < STALE_SECONDS or _still_beats(handle, before):
                raise LockedError(_taken(directory, before))
        if before:
            say(f"taking over {directory}: {_holder(before)} ended without releasing it")
        token = uuid.uuid4().hex
        _write(handle, token)
        if answer == "unknown":  # another process may have done the same: the last one to write holds the lock
            time.sleep(BEAT_SECONDS / 5)
            if _read(handle).get("token") != token:
                raise LockedError(_taken(directory, _read(handle)))
        yield from _held(handle, path, token)
    finally:
        os.close(handle)


def _held(handle: int, path: Path, token: str) -> Iterator[None]:
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(handle, token, done), name="jaxnets-heartbeat", daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        with contextlib.suppress(OSError):
            if _read(handle).get("token") == token:
                os.ftruncate(
                    handle, 0
                )  # if an open file cannot be removed, it stays, with a text that no process holds it
                path.unlink()


def _open(path: Path) -> tuple[int, Answer]:
    """The open lock file, and whether the operating system granted its lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | EXTRA_FLAGS, 0o644)
        answer = _lock(handle)
        if answer != "ours":
            return handle, answer
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle, answer
        os.close(handle)  # its holder released and removed it meanwhile: other processes will not find this file


def _lock(handle: int) -> Answer:
    fcntl = fcntl_module()
    if fcntl is None:
        return "unknown"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "taken"
    except OSError:  # a file system without locks
        return "unknown"
    return "ours"


def _still_beats(handle: int, before: dict[str, Any]) -> bool:
    """Whether the lock's text changes within two heartbeats."""
    end = time.monotonic() + 2 * BEAT_SECONDS
    while time.monotonic() < end:
        time.sleep(BEAT_SECONDS / 10)
        if _read(handle) != before:
            return True
    return False


def _beat(handle: int, token: str, done: threading.Event) -> None:
    while not done.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):  # a full disk is reported by the training log
            now = _read(handle)
            if now and now["token"] != token:
                # This process was suspended for so long that another one took over. Further writes would destroy the work of
                # that one.
                streams.say(f"jaxnets: {_holder(now)} took over this run directory; ending immediately")
                os._exit(1)
            _write(handle, token)


def _write(handle: int, token: str) -> None:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "token": token, "beat": time.time()}
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, json.dumps(holder).encode().ljust(LENGTH))


def _read(handle: int) -> dict[str, Any]:
    """The last text of the holder; {} if there is none, or if the text is invalid."""
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        data = json.loads(os.read(handle, LENGTH))
        return {
            "host": str(data["host"])[:100],
            "pid": int(data["pid"]),
            "token": str(data["token"]),
            "beat": float(data["beat"]),
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, OSError):
        return {}


def _holder(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown host')!r}"


def _taken(directory: Path, holder: dict[str, Any]) -> str:
    beat = f", last heard of {time.time() - holder['beat']:.0f} s ago" if holder else ""
    return (
        f"{directory} is in use by {_holder(holder)}{beat}; two runs in one directory would destroy each other's work. "
        f"Wait for it or end it, or choose another --run-dir. (A lock whose process is gone is taken over: at once on the "
        f"same machine, after {STALE_SECONDS:.0f} s without a sign from another)"
    )
