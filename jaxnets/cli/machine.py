"""Prepares the environment of a command before any other work: streams, environment variables, the compilation cache."""

import contextlib
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

from jaxnets.core import streams
from jaxnets.core.errors import DataError, UsageError

# With fewer columns output is unreadable, and the layout of the help does not terminate.
LEAST_COLUMNS = 40
# Variables that libraries read on import, and whose empty value they treat as an error.
READ_AT_IMPORT = ("JAX_", "JAXNETS_", "XLA_")


def prepare() -> None:
    """Called before the first slow import; a second call changes nothing."""
    streams.prepare()
    _end_on_interrupt()
    for name, value in list(os.environ.items()):
        # An empty value, as containers and scripts set it for missing settings, counts as not set.
        if name.startswith(READ_AT_IMPORT) and not value.strip():
            del os.environ[name]
    if "COLUMNS" in os.environ or shutil.get_terminal_size().columns < LEAST_COLUMNS:
        os.environ["COLUMNS"] = str(max(LEAST_COLUMNS, shutil.get_terminal_size().columns))


def _end_on_interrupt() -> None:
    """From here on Ctrl-C ends this process immediately; training replaces this by its own handler.

    Python's exception for it may interrupt the import of a C++ library, which then crashes, or be raised in a callback of JAX,
    which drops it, so that the command would continue. Ending loses nothing: files are written completely or not at all.
    """

    def end(*_: Any) -> None:
        with contextlib.suppress(OSError):
            os.write(2, b"jaxnets: interrupted; the same command begins again, or goes on from its last checkpoint\n")
        os._exit(130)

    # If it is ignored, as in a shell's background, it stays ignored.
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, end)


def check_here() -> None:
    """Raise `UsageError` if the working directory was deleted, because many libraries fail then."""
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            f"the working directory is not there any more ({error}); change to another one and run the command again"
        ) from error


def prepare_jax() -> str:
    """Settings that are needed before JAX starts: a compilation cache that persists after the process.

    Returns:
        The reason why there is no such cache; "" if there is one.
    """
    why = ""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_compilation_cache())
        except (DataError, OSError) as error:
            why = f"there is no place for compiled programs, so each start compiles again ({error})"
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    # The configuration may have imported jax already, before it could read these environment variables.
    import jax

    if not why:
        jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    seconds = os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float(seconds))
    return why


def _compilation_cache() -> Path:
    """The folder, which is created if it does not exist."""
    from jaxnets.core.download import cache_directory

    folder = cache_directory() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be made: {error}; set JAXNETS_CACHE to a folder that can be written"
        ) from error
    return folder


def is_about_the_cache(message: Any) -> bool:
    """Whether another library's warning is that the compilation cache cannot be read or written."""
    return "persistent compilation cache" in str(message)
