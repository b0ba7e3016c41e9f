"""The directory of a run's checkpoints: the steps in it, which of them are complete, and how they are added and removed.

    checkpoints/200/            a step; complete once it has a manifest
    checkpoints/damaged-200-1/  a damaged step, moved aside when it was saved again
    checkpoints/.removed-...    being removed

Needs no JAX.
"""

import contextlib
import dataclasses
import shutil
import time
from pathlib import Path

from jaxnets.checkpoints import manifest as manifests
from jaxnets.checkpoints.manifest import Manifest
from jaxnets.checkpoints.retention import Keep
from jaxnets.core.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a search for the newest good checkpoint."""

    step: int | None
    """The newest undamaged step; None if there is none."""
    rejected: tuple[str, ...]
    """The reason why each newer one was skipped."""


@dataclasses.dataclass(frozen=True)
class StepFolders:
    """One folder for each step."""

    directory: Path
    """Where they are; need not exist."""

    def path(self, step: int) -> Path:
        """The folder of a step."""
        return self.directory / str(step)

    @property
    def all(self) -> list[int]:
        """Every folder that has the name of a step, complete or not, oldest first."""
        try:
            names = [path.name for path in self.directory.iterdir()]
        except OSError:
            return []
        # Only the exact form of a name: no signs, leading zeros, digits of other scripts, or numbers beyond any run.
        digits = (name for name in names if len(name) <= 15 and name.isascii() and name.isdigit())
        return sorted(int(name) for name in digits if str(int(name)) == name)

    @property
    def complete(self) -> list[int]:
        """Steps whose save was completed, oldest first; their bytes are not verified by this."""
        return [step for step in self.all if (self.path(step) / manifests.NAME).is_file()]

    def manifest(self, step: int) -> Manifest:
        """The manifest of a step; raises `CheckpointError` if it is missing or damaged."""
        return manifests.read(self.path(step))

    def measured(self) -> dict[int, dict[str, float]]:
        """The test metrics of every complete step with a readable manifest; damaged ones are left out."""
        found = {}
        for step in self.complete:
            with contextlib.suppress(CheckpointError):
                found[step] = self.manifest(step).metrics
        return found

    def verify(self, step: int) -> Manifest:
        """Check every file of a step; raises `CheckpointError`, naming the file, if one has changed."""
        manifest = self.manifest(step)
        if manifest.step != step:
            raise CheckpointError(f"{self.path(step)} holds step {manifest.step}: the directory was renamed")
        manifests.verify_files(self.path(step), manifest)
        return manifest

    def newest_verified(self, *, at_most: int | None = None) -> Found:
        """The newest undamaged step (up to a step), and the reasons against newer ones."""
        rejected: list[str] = []
        for step in reversed(self.all):
            if at_most is not None and step > at_most:
                continue
            try:
                self.verify(step)
            except CheckpointError as error:
                rejected.append(str(error))
            else:
                return Found(step, tuple(rejected))
        return Found(None, tuple(rejected))

    def make_way(self, step: int) -> Path:
        """A new, empty folder for a step; an old damaged one is moved aside, an undamaged one is an error."""
        folder = self.path(step)
        if folder.exists() or folder.is_symlink():
            try:
                self.verify(step)
            except CheckpointError:
                if (folder / manifests.NAME).exists():
                    self.set_aside(step)
                else:
                    self.remove(step)
            else:
                raise CheckpointError(
                    f"checkpoint {step} was not saved: {self.directory} has it already. Resume that run, or choose another "
                    f"--run-dir"
                )
        folder.mkdir(parents=True)
        return folder

    def set_aside(self, step: int) -> None:
        """Rename a damaged step, so that it no longer has the name of a step."""
        number = 1
        while (aside := self.directory / f"damaged-{step}-{number}").exists():
            number += 1
        self.path(step).rename(aside)

    def remove(self, step: int) -> None:
        """Rename a step first, then delete its files: after a crash in between, no partial step remains."""
        aside = self.directory / f".removed-{step}-{time.time_ns()}"
        self.path(step).rename(aside)
        if aside.is_symlink():
            aside.unlink()
        else:
            shutil.rmtree(aside, ignore_errors=True)

    def prune(self, keep: Keep, *, newest: int) -> None:
        """Remove the steps that are not kept, when `newest` is complete."""
        measured = self.measured()
        for step in measured.keys() - keep.choose(measured) - {newest}:
            self.remove(step)
        # Files of a killed save, which are useless.
        for step in self.all:
            if step < newest and not (self.path(step) / manifests.NAME).exists():
                self.remove(step)
        for leftover in self.directory.glob(".removed-*"):
            shutil.rmtree(leftover, ignore_errors=True)
