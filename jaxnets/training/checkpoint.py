"""Checkpoints: Orbax underneath, and our own rules on top.

Checkpoint k is the state after k updates, and the next batch is number k: there is nothing else to save. A checkpoint is
always restored into the shapes, dtypes and shardings of the present run, so it comes back on any mesh.
"""

import contextlib
import logging
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax

from jaxnets.errors import RunDirectoryError


class Checkpoints:
    """The checkpoints of one run directory; a context manager that waits for the last save on the way out."""

    def __init__(self, directory: Path, *, keep: int = 3) -> None:
        """Open (and create) `directory`; keeps the newest `keep` checkpoints."""
        # Imported here: Orbax takes most of a second, and only runs that save need it.
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp = ocp
        self.directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=False)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise RunDirectoryError(
                f"cannot write checkpoints to {self.directory} ({error}); choose another --run-dir, or give yourself "
                f"permission to write there"
            ) from error

    @property
    def latest(self) -> int | None:
        """The newest step saved, or None."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """All steps saved, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, host: Any = None) -> None:
        """Save the state after `step` updates; returns when it is copied off the device, and writes in the background.

        Args:
            step: updates done.
            state: a tree of arrays.
            host: what the host must remember beside it, as JSON data (half-finished sums of the log, say).

        Raises:
            RunDirectoryError: the step is saved already, or the disk refuses (now, or for the save before this one).
        """
        with self._explained(f"save step {step}"), _explicit_transfers():
            args = self._ocp.args.Composite(
                state=self._ocp.args.StandardSave(state), host=self._ocp.args.JsonSave(host or {})
            )
            if not self._manager.save(step, args=args):
                raise RunDirectoryError(
                    f"checkpoint {step} was not saved: {self.directory} already has step {self.latest}. "
                    f"Resume that run, or choose another --run-dir"
                )

    def restore(self, step: int, like: Any) -> tuple[Any, Any]:
        """The state after `step` updates, and what the host remembered.

        The state gets the shapes, dtypes and shardings of `like`, a tree of `jax.ShapeDtypeStruct`; see `abstract`.
        """
        with self._explained(f"restore step {step}"):
            args = self._ocp.args.Composite(
                state=self._ocp.args.StandardRestore(like), host=self._ocp.args.JsonRestore()
            )
            restored = self._manager.restore(step, args=args)
            return restored["state"], restored["host"]

    def wait(self) -> None:
        """Block until every save is on disk."""
        with self._explained("finish saving"):
            self._manager.wait_until_finished()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except RunDirectoryError:
            if error is None:  # the first error is the one to tell
                raise
        finally:
            with contextlib.suppress(Exception):
                self._manager.close()

    @contextlib.contextmanager
    def _explained(self, what: str) -> Any:
        """Orbax's many kinds of exception as one that says what was tried and what still stands."""
        try:
            yield
        except RunDirectoryError:
            raise
        except Exception as error:
            kept = _steps_on_disk(self.directory)
            raise RunDirectoryError(
                f"cannot {what} in {self.directory} ({type(error).__name__}: {_first_line(error)}). Checkpoints on disk: "
                f"{kept or 'none'}, untouched. Check free space and permissions, then run the same command to resume"
            ) from error


def abstract(state: Any, shardings: Any) -> Any:
    """What to restore into: shapes and dtypes of a state with the shardings of the present mesh."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state, shardings)


def _explicit_transfers() -> Any:
    # Orbax copies arrays to the host in its own way; that is the point of a save.
    return jax.transfer_guard("allow")


def _steps_on_disk(directory: Path) -> list[int]:
    with contextlib.suppress(OSError):
        return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())
    return []


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else "no message"
