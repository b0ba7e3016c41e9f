"""`jaxnets clean` and `jaxnets copy`: delete files that a run does not need, and copy a run. They do not start JAX."""

import contextlib
import dataclasses
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from jaxnets.checkpoints import manifest
from jaxnets.checkpoints.step_folders import StepFolders
from jaxnets.cli.flags import parse
from jaxnets.core.errors import CheckpointError, RunDirectoryError, UsageError
from jaxnets.core.files import is_partial, user_path
from jaxnets.core.flatten import flatten
from jaxnets.report.log import CHOSEN
from jaxnets.runs import catalog, lock


@dataclasses.dataclass(frozen=True)
class CleanOptions:
    """Options of `jaxnets clean`."""

    yes: bool = False
    """Remove the files; without this flag they are only listed."""
    keep: int = 1
    """Number of the newest checkpoints to keep, in addition to the best one."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep is at least 1, since a run without a checkpoint is lost; got {self.keep}")


def clean(arguments: Sequence[str]) -> int:
    """`jaxnets clean RUN_OR_FOLDER [--keep N] [--yes]`."""
    if not arguments or arguments[0].startswith("-"):
        raise UsageError("`jaxnets clean` takes a run directory, or a folder of them, first")
    folder, *flags = arguments
    options = parse(CleanOptions, flags, "jaxnets clean RUN_OR_FOLDER")
    freed = 0
    for entry in catalog.find(folder):
        if entry.state == "training":
            print(f"{entry.name}: in use, left alone")
            continue
        # Nothing is written where nothing is removed.
        with lock.hold(entry.path.absolute()) if options.yes else contextlib.nullcontext():
            entry = catalog.read(entry.path, entry.name)  # read again now that no other process writes to it
            for path, why in superfluous(entry.path, options.keep, _chosen(entry), _every(entry)):
                size = sum(file.stat().st_size for file in _files(path))
                freed += size
                print(f"{entry.name}/{path.relative_to(entry.path)}  {size / 1e6:.1f} MB  {why}")
                if options.yes:
                    _remove(path)
    verb = "removed" if options.yes else "would be removed; --yes removes it"
    print(f"{freed / 1e6:.1f} MB {verb}")
    return 0


def superfluous(run: Path, keep: int, chosen: Collection[int], every: int = 0) -> Iterator[tuple[Path, str]]:
    """The files that a run does not need, each with the reason: older checkpoints, damaged ones, unfinished files.

    The newest undamaged checkpoint always stays, and so do the steps in `chosen` and the multiples of `every`. If all are
    damaged, all stay.
    """
    folders = StepFolders(run / "checkpoints")
    complete = folders.complete
    newest = folders.newest_verified().step
    wanted = {*complete[-keep:], newest, *chosen, *(step for step in complete if every and step % every == 0)}
    for step in folders.all if newest is not None else ():
        if step not in complete:
            yield folders.path(step), "a checkpoint that was never complete"
        elif step not in wanted:
            yield folders.path(step), "an older checkpoint"
    if folders.directory.is_dir():
        for path in sorted(folders.directory.iterdir()):
            if path.name.startswith(("damaged-", ".removed-")):
                yield path, "a checkpoint that was set aside"
    for path in sorted(run.iterdir()):
        if is_partial(path.name):
            yield path, "a file that was never whole"


def copy(arguments: Sequence[str]) -> int:
    """`jaxnets copy RUN TARGET`: copy a run into a new directory; its `config.json`, which makes it a run, is written last."""
    if len(arguments) != 2 or arguments[0].startswith("-") or arguments[1].startswith("-"):
        raise UsageError("`jaxnets copy` takes a run directory and a directory that is not there yet")
    source, target = catalog.existing(arguments[0]).path.resolve(), user_path(arguments[1]).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{arguments[1]!r} is there already; give a directory that is not there yet")
    if target.is_relative_to(source):
        raise UsageError(f"{arguments[1]!r} is inside the run itself; give another place")
    try:
        with lock.hold(source):
            size = _copy(source, target)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(target, ignore_errors=True)  # it did not exist, or was empty
        raise RunDirectoryError(
            f"cannot copy to {target} ({error}); choose another place, or free some space"
        ) from error
    folders = StepFolders(target / "checkpoints")
    for step in folders.complete:
        try:
            folders.verify(step)
        except CheckpointError as error:
            print(f"checkpoint {step} is damaged, there as here: {error}")
    print(f"{target}: {size / 1e6:.1f} MB")
    return 0


def _copy(source: Path, target: Path) -> int:
    """Copy files, then the manifests of checkpoints, then the configuration; the size of all."""
    last = {manifest.NAME: 1, catalog.CONFIG: 2}
    files = sorted(_files(source), key=lambda file: (last.get(file.name, 0), file))
    size = 0
    for file in files:
        place = file.relative_to(source)
        if file.name == lock.NAME or any(is_partial(part) or part.startswith(".removed-") for part in place.parts):
            continue
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target / place)
        size += file.stat().st_size
    return size


def _files(path: Path) -> Iterator[Path]:
    """The plain files below a path, no symbolic links."""
    if path.is_symlink():
        return
    if path.is_file():
        yield path
    elif path.is_dir():
        for inside in path.iterdir():
            yield from _files(inside)


def _chosen(entry: catalog.Entry) -> set[int]:
    """The steps that may have the best weights of a run: the one named by the test at its last step, else all that were
    measured."""
    last = [r[CHOSEN] for r in entry.records if r["step"] == entry.step and CHOSEN in r]
    if last and isinstance(last[-1], int):
        return {last[-1]}
    fields = flatten(entry.config)
    if not (fields.get("keep.best") or fields.get("stop.patience")):
        return set()
    return {step for step, metrics in StepFolders(entry.path / "checkpoints").measured().items() if metrics}


def _every(entry: catalog.Entry) -> int:
    """`keep.every` of a run: checkpoints that are kept permanently."""
    every = flatten(entry.config).get("keep.every", 0)
    return every if isinstance(every, int) else 0


def _remove(path: Path) -> None:
    """Remove a file or a folder; a checkpoint is renamed first, so that after a crash no partial checkpoint remains."""
    if path.parent.name == "checkpoints" and path.name.isdigit():
        StepFolders(path.parent).remove(int(path.name))
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
