"""Processes that read the rows of a user's data set, for reading that holds Python's global lock, such as decoding images.

They are spawned, never forked: a fork of a process with JAX's threads can hang. Each has its own copy of the data set, which
therefore can be pickled. Results come in the order of the rows, so the arrays are those that one thread would read.
"""

import concurrent.futures
import concurrent.futures.process
import functools
import multiprocessing
import multiprocessing.reduction
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from jaxnets.core.errors import DataError, first_line

# In a worker: the function that reads some rows.
_function: Callable[..., Any] | None = None


class Workers:
    """Some processes, each with a copy of `function`; they start at the first call and end with this process."""

    def __init__(self, what: str, function: Callable[..., Any], count: int) -> None:
        """
        Args:
            what: name of the data, for messages.
            function: called in the processes.
            count: number of processes.

        Raises:
            DataError: the function, or the data set in it, cannot be pickled.
        """
        check_copied(what, function)
        self._what, self._count, self._function = what, count, function

    @functools.cached_property
    def _pool(self) -> concurrent.futures.ProcessPoolExecutor:
        return concurrent.futures.ProcessPoolExecutor(
            self._count,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(self._function,),
        )

    def map(self, *arguments: list[Any]) -> list[Any]:
        """The results of the function for each position of some lists of arguments, in order."""
        try:
            return list(self._pool.map(_call, *arguments))
        except concurrent.futures.process.BrokenProcessPool as error:
            raise DataError(
                f"{self._what}: a process that reads rows ended before its work was done, and wrote the reason above. It may "
                f'have been killed for want of memory; a script needs `if __name__ == "__main__":` around what it runs; the '
                f"class of the data set is in a module that can be imported, not in a notebook. processes=0 reads with threads"
            ) from error


def check_copied(what: str, value: Any) -> None:
    """Raise `DataError` if a value cannot be copied to another process, which multiprocessing does by pickling it."""
    try:
        multiprocessing.reduction.ForkingPickler.dumps(value)
    except Exception as error:  # what a user's object raises while it is pickled can be anything
        raise DataError(
            f"{what}: processes need a copy of what reads the rows, and it cannot be pickled ({first_line(error)}); open "
            f"files in __getitem__, define classes and functions at the top of a module, or read with threads: processes=0"
        ) from error


def _start(function: Callable[..., Any]) -> None:
    """Prepare a worker: Ctrl-C and the accelerator are left to the main process, and the worker ends when that process
    does."""
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import jax

    jax.config.update("jax_platforms", "cpu")
    _function = function


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _call(*arguments: Any) -> Any:
    assert _function is not None, "the process was not prepared"
    return _function(*arguments)
