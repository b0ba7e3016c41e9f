"""What a command finds on its machine, put right before anything else happens: streams, environment, the compilation cache."""

import contextlib
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

from jaxnets.core import streams
from jaxnets.core.errors import DataError, UsageError

# Below this many columns nothing that is printed can be read, and the help's layout does not come to an end.
LEAST_COLUMNS = 40
# Variables that libraries read as soon as they are imported, and take an empty value of for a mistake.
READ_AT_IMPORT = ("JAX_", "JAXNETS_", "XLA_")


def prepare() -> None:
    """Before the first import that takes long; does nothing that a second call would change."""
    streams.prepare()
    _end_on_interrupt()
    for name, value in list(os.environ.items()):
        # Set to nothing, as containers and scripts do with what they were not given, is not set.
        if name.startswith(READ_AT_IMPORT) and not value.strip():
            del os.environ[name]
    if "COLUMNS" in os.environ or shutil.get_terminal_size().columns < LEAST_COLUMNS:
        os.environ["COLUMNS"] = str(max(LEAST_COLUMNS, shutil.get_terminal_size().columns))


def _end_on_interrupt() -> None:
    """From here on Ctrl-C ends this process at once; training puts its own way of stopping in the place of that.

    As the exception that Python makes of it, it may break off the import of a library in C++, which then crashes, or come up
    in a callback of JAX, which drops it: the command would go on as if no signal had come. Ending loses nothing: files
    are written whole or not at all.
    """

    def end(*_: Any) -> None:
        with contextlib.suppress(OSError):
            os.write(2, b"jaxnets: interrupted; the same command begins again, or goes on from its last checkpoint\n")
        os._exit(130)

    # Where it is ignored, as in a shell's background, it stays so.
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, end)


def check_here() -> None:
    """Raise `UsageError` where the working directory is gone, which few programs survive."""
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            f"the working directory is not there any more ({error}); change to another one and run the command again"
        ) from error


def prepare_jax() -> str:
    """Settings that must stand before JAX starts: a compilation cache that outlives the process.

    Returns:
        Why there is no such cache, in words; "" where there is one.
    """
    why = ""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_compilation_cache())
        except (DataError, OSError) as error:
            why = f"there is no place for compiled programs, so each start compiles again ({error})"
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    # The configuration has imported jax already, too early for it to have read the environment.
    import jax

    if not why:
        jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    seconds = os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float(seconds))
    return why


def _compilation_cache() -> Path:
    """The folder, made where it is not there."""
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
