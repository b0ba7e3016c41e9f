"""Stop requests: SIGTERM (a preempted machine) and SIGINT (Ctrl-C) end a run after a save.

The first signal sets a flag, which the loop reads between calls, while it waits for data and during an evaluation: it saves
and raises `PreemptedError`. The second ends the process immediately. A separate thread receives signals, since the main thread
may be inside a compilation and could not distinguish a first signal from a second.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Collection, Iterator

import jax

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Signals within this time count as one.
SAME_SECONDS = 0.5


class StopRequestedError(Exception):
    """Work that can be done later was postponed, because the run is to stop."""


class Stopping:
    """Whether a signal was received."""

    def __init__(self, *, gently: bool = False) -> None:
        """`gently`: a signal ends the run as a callback does, without an error."""
        self.requested = False
        self.reason = ""
        self.gently = gently
        self._signals_gently = gently

    def request(self, reason: str, *, gently: bool | None = None) -> None:
        """Request that the run stops as soon as possible; gently: the loop returns the state instead of raising."""
        self.gently = self._signals_gently if gently is None else gently
        self.requested, self.reason = True, reason

    def leave_if_requested(self) -> None:
        """Raise `StopRequestedError` if the run is to stop; not with several processes, which must stay in step."""
        if self.requested and jax.process_count() == 1:
            raise StopRequestedError(self.reason)

    @contextlib.contextmanager
    def on_signals(self, signals: Collection[int] = SIGNALS) -> Iterator["Stopping"]:
        """Receive these signals inside; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        # The handlers do nothing, but without them the default action would be taken; the number arrives at the socket
        # immediately.
        before = {number: signal.signal(number, lambda *_: None) for number in signals}
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._listen, args=(reader,), name="jaxnets-signals", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            writer.close()
            thread.join()
            reader.close()

    def _listen(self, reader: socket.socket) -> None:
        first = 0.0
        while received := reader.recv(1):
            number = received[0]
            if number not in SIGNALS:
                continue
            name = signal.Signals(number).name
            if self.requested and time.monotonic() - first < SAME_SECONDS:
                continue  # a wrapper forwarded a signal that its process group had received already
            if self.requested:
                _tell(f"jaxnets: second {name}: gone\n")
                os._exit(128 + number)
            first = time.monotonic()
            self.request(name)
            what = "stop" if self._signals_gently else "save and stop"
            _tell(f"\njaxnets: {name}: will {what} after this step; a second signal ends immediately\n")


def _tell(text: str) -> None:
    """Print it on stderr, if it is open."""
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())
