"""Checkpoints: Orbax writes the arrays, and our own rules decide which checkpoints count.

Checkpoint k is the state after k updates, and the next batch is number k. A checkpoint is complete when its manifest is
there (`manifest.py`), which is written last and names every leaf and every file with a digest. It is verified before it is
used, and restored into the shapes, dtypes and shardings of the present run, so it comes back on any mesh.
"""

import contextlib
import dataclasses
import faulthandler
import logging
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax

from jaxnets.checkpoints import manifest as manifests
from jaxnets.checkpoints.compare import check_same
from jaxnets.checkpoints.digest import leaf_paths, read_digests, start_digests
from jaxnets.checkpoints.manifest import Leaf, Manifest
from jaxnets.checkpoints.plain_name import PlainName
from jaxnets.checkpoints.retention import Keep
from jaxnets.checkpoints.step_folders import Found, StepFolders
from jaxnets.core.errors import (
    CheckpointError,
    DamagedError,
    HungError,
    RunDirectoryError,
    UsageError,
    did_you_mean,
    first_line,
)
from jaxnets.parallel.hosts import any_process, from_first, is_first

# A save that takes longer than this hangs. Orbax's own limit is twice as long.
SAVE_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Restored:
    """The result of a search for a checkpoint to resume from."""

    step: int | None
    """None if none is good."""
    state: Any
    host: dict[str, Any]
    rejected: tuple[str, ...]
    """The reason why each newer one was skipped."""


class Checkpoints:
    """The checkpoints of one run directory; a context manager that waits for the last save at its end."""

    def __init__(
        self,
        directory: Path,
        *,
        keep: Keep | None = None,
        about: dict[str, Any] | None = None,
        save_seconds: float = SAVE_SECONDS,
    ) -> None:
        """Open `directory`, which need not exist yet.

        Args:
            directory: one folder for each step goes there.
            keep: which checkpoints stay when new ones are saved.
            about: metadata of the states (experiment, versions, data), written beside each of them as JSON.
            save_seconds: a save that takes longer ends the run with the stacks of all threads.
        """
        self.directory = Path(directory).absolute()
        self.folders = StepFolders(self.directory)
        self._for_orbax = PlainName(self.directory)
        self.keep, self._about, self._limit = keep or Keep(), about or {}, save_seconds
        self._orbax: Any = None
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def steps(self) -> list[int]:
        """Steps whose save was completed, oldest first; their bytes are not verified by this."""
        return self.folders.complete

    def best_so_far(self, *, at_most: int) -> float | None:
        """The best value of `keep.best` measured at a checkpoint up to a step; None if there is none."""
        measured = {step: metrics for step, metrics in self.folders.measured().items() if step <= at_most}
        step = self.keep.best_of(measured)
        return None if step is None else measured[step][self.keep.best]

    def best(self) -> tuple[int, float] | None:
        """Step and value of the best checkpoint by `keep.best`; None if none was measured."""
        measured = self.folders.measured()
        step = self.keep.best_of(measured) if self.keep.best else None
        return None if step is None else (step, measured[step][self.keep.best])

    @property
    def latest(self) -> int | None:
        """The newest step whose save was completed, or None."""
        return max(self.steps, default=None)

    def newest_verified(self, *, at_most: int | None = None) -> Found:
        """See `StepFolders`; the same step on every host, and the reasons on the first."""
        self.wait()
        found = self.folders.newest_verified(at_most=at_most) if is_first() else Found(None, ())
        step = from_first(-1 if found.step is None else found.step)
        return Found(None if step < 0 else step, found.rejected)

    def save(self, step: int, state: Any, host: Any = None, *, metrics: dict[str, float] | None = None) -> None:
        """Save the state after `step` updates; returns when it is copied off the device, and writes in the background.

        Args:
            step: updates done.
            state: a tree of arrays.
            host: data of the host to save beside it, as JSON data (for example, unfinished sums of the log).
            metrics: test metrics measured at this step, for `Keep.best`.

        Raises:
            CheckpointError: the step is saved already, or the disk refuses (now, or for the save before this one).
            HungError: the save before this one is still not done.
        """
        self.wait()
        if metrics and self.keep.best and self.keep.best not in metrics:
            raise UsageError(f"keep.best is {self.keep.best!r}. {did_you_mean(self.keep.best, metrics)}")
        with self._explained(f"save step {step}"), _explicit_transfers(), self._deadline():
            folder = self.folders.make_way(step) if is_first() else self.folders.path(step)
            digests = start_digests(state)
            leaves = {path: (tuple(a.shape), str(a.dtype)) for path, a in leaf_paths(state).items()}
            self._async().save(self._for_orbax.path / folder.name / "state", args=_orbax().args.StandardSave(state))
        fields = (step, leaves, digests, host or {}, metrics or {})
        self._writer = threading.Thread(target=self._finish, args=fields, name="jaxnets-save", daemon=True)
        self._writer.start()

    def restore(self, step: int, like: Any) -> tuple[Any, Any]:
        """The state after `step` updates, and the saved data of the host; every digest is checked.

        The state gets the shapes, dtypes and shardings of `like`, a tree of `jax.ShapeDtypeStruct`; see `abstract`.

        Raises:
            CheckpointError: it is damaged (the message names the file or leaf), or holds other leaves than `like`.
        """
        self.wait()
        manifest = self.folders.verify(step) if is_first() else self.folders.manifest(step)
        check_same(manifest.leaves, like, self.folders.path(step))
        with self._explained(f"restore step {step}"), _explicit_transfers():
            place = self._for_orbax.path / str(step) / "state"
            state = self._async().restore(place, args=_orbax().args.StandardRestore(like))
            digests = read_digests(start_digests(state))
        for path, digest in digests.items():
            if digest != manifest.leaves[path].digest:
                raise DamagedError(f"{self.folders.path(step)}: {path} is not what was saved (digest {digest}, not "
                                      f"{manifest.leaves[path].digest})")  # fmt: skip
        return state, manifest.host

    def restore_newest(self, like: Any, *, at_most: int | None = None, set_aside: bool = False) -> Restored:
        """The newest checkpoint whose files and leaves match their digests.

        Args:
            like: see `restore`.
            at_most: the newest up to this step.
            set_aside: move a readable checkpoint with wrong digests aside, so that its step can be saved again.

        Raises:
            CheckpointError: it holds other leaves than `like`.
        """
        rejected: list[str] = []
        while True:
            found = self.newest_verified(at_most=at_most)
            rejected += found.rejected
            if found.step is None:
                return Restored(None, None, {}, tuple(rejected))
            failure = ""
            try:
                state, host = self.restore(found.step, like)
            except DamagedError as error:
                failure = str(error)
            if not any_process(bool(failure)):
                return Restored(found.step, state, host, tuple(rejected))
            rejected.append(failure or f"{self.folders.path(found.step)} cannot be read by another process")
            if set_aside and is_first():
                self.folders.set_aside(found.step)
            at_most = found.step - 1

    def clear_pending(self, step: int, metrics: dict[str, float]) -> None:
        """Rewrite the manifest of a step: no hook is pending any more, and these metrics were measured."""
        self.wait()
        if is_first() and step in self.steps:
            with self._explained(f"settle step {step}"):
                manifest = self.folders.manifest(step)
                host = {**manifest.host, "pending": []}
                settled = dataclasses.replace(manifest, host=host, metrics={**manifest.metrics, **metrics})
                settled.write(self.folders.path(step))

    def discard_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, after a roll-back to this one."""
        self.wait()
        if is_first():
            for later in [s for s in self.folders.all if s > step]:
                self.folders.remove(later)

    def wait(self) -> None:
        """Block until the last save is complete on the disk; raises its error if it failed."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.join(self._limit)
            if writer.is_alive():
                self._orbax = None  # closing it would also wait
                _dump_stacks()
                raise HungError(
                    f"a save to {self.directory} has not ended after {self._limit:g} seconds; the stacks of all threads are "
                    f"above. Checkpoints that stand: {self.steps or 'none'}. Look at the disk, then run the same command"
                )
        error, self._error = self._error, None
        if error is not None:
            with self._explained("finish the last save"):
                raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except HungError:
            raise
        except RunDirectoryError as late:
            if error is None:
                raise
            error.add_note(str(late))  # the first error is the one to report
        finally:
            if self._orbax is not None:
                with contextlib.suppress(Exception):
                    self._orbax.close()
                self._orbax = None

    def _finish(self, step: int, leaves: Any, digests: Any, host: Any, metrics: dict[str, float]) -> None:
        """In the background: when the arrays are on the disk, write the manifest, then remove checkpoints that are not
        kept."""
        try:
            self._async().wait_until_finished()
            read = read_digests(digests)
            if not is_first():
                return
            folder = self.folders.path(step)
            files = manifests.list_files(folder)
            if not (folder / "state").is_dir() or not files:
                raise CheckpointError(f"{folder} is empty after its save: nothing was written")
            described = {path: Leaf(shape, dtype, read[path]) for path, (shape, dtype) in leaves.items()}
            Manifest(step, described, files, host, metrics, self._about).write(folder)
            self.folders.prune(self.keep, newest=step)
        except BaseException as error:
            self._error = error

    def _async(self) -> Any:
        if self._orbax is None:
            ocp = _orbax()
            self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        return self._orbax

    @contextlib.contextmanager
    def _deadline(self) -> Any:
        """End the process with all stacks if the copy off the device hangs: it cannot be stopped in another way."""
        try:
            faulthandler.dump_traceback_later(self._limit, exit=True, file=sys.__stderr__ or sys.stderr)
        except (AttributeError, ValueError, OSError):  # there is no real stderr, so no stacks are printed
            yield
            return
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    @contextlib.contextmanager
    def _explained(self, what: str) -> Any:
        """Converts Orbax's exceptions to one that names the operation and the remaining checkpoints."""
        try:
            yield
        except RunDirectoryError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"cannot {what} in {self.directory} ({type(error).__name__}: {first_line(error)}). Checkpoints on disk: "
                f"{self.steps or 'none'}, untouched. Check free space and permissions, then run the same command to resume"
            ) from error


def abstract(state: Any, shardings: Any) -> Any:
    """The target of a restore: shapes and dtypes of a state with the shardings of the present mesh."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state, shardings)


def _orbax() -> Any:
    # Imported late: Orbax takes most of a second, and only runs that save need it.
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    return ocp


def _dump_stacks() -> None:
    with contextlib.suppress(AttributeError, ValueError, OSError):
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr, all_threads=True)


def _explicit_transfers() -> Any:
    # Orbax copies arrays to the host by implicit transfers, which are allowed for a save.
    return jax.transfer_guard("allow")
