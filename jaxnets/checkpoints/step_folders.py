"""The directory of a run's checkpoints: which steps are there, which of them count, and how one comes and goes.

    checkpoints/200/            a step; complete once it has a manifest
    checkpoints/damaged-200-1/  a step that did not verify, moved aside when it was saved anew
    checkpoints/.removed-...    on its way out

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
    """What a search for the newest good checkpoint gave."""

    step: int | None
    """The newest step that verifies; None where there is none."""
    rejected: tuple[str, ...]
    """Why each newer one was passed over."""


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
        # The name as it is written: no signs, leading zeros, foreign digits, or numbers beyond any run.
        digits = (name for name in names if len(name) <= 15 and name.isascii() and name.isdigit())
        return sorted(int(name) for name in digits if str(int(name)) == name)

    @property
    def complete(self) -> list[int]:
        """Steps whose save was completed, oldest first; their bytes are not verified by this."""
        return [step for step in self.all if (self.path(step) / manifests.NAME).is_file()]

    def manifest(self, step: int) -> Manifest:
        """The manifest of a step; raises `CheckpointError` where it is missing or damaged."""
        return manifests.read(self.path(step))

    def measured(self) -> dict[int, dict[str, float]]:
        """The test metrics of every complete step whose manifest reads; a damaged one is left for its owner to look at."""
        found = {}
        for step in self.complete:
            with contextlib.suppress(CheckpointError):
                found[step] = self.manifest(step).metrics
        return found

    def verify(self, step: int) -> Manifest:
        """Check every file of a step; raises `CheckpointError`, naming the file, unless all is as it was written."""
        manifest = self.manifest(step)
        if manifest.step != step:
            raise CheckpointError(f"{self.path(step)} holds step {manifest.step}: the directory was renamed")
        manifests.verify_files(self.path(step), manifest)
        return manifest

    def newest_verified(self, *, at_most: int | None = None) -> Found:
        """The newest step (up to a step) that verifies, and why newer ones do not."""
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
        """A new, empty folder for a step; an old one that does not verify is moved aside, one that verifies is an error."""
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
        """Keep a damaged step under a name that is no step's."""
        number = 1
        while (aside := self.directory / f"damaged-{step}-{number}").exists():
            number += 1
        self.path(step).rename(aside)

    def remove(self, step: int) -> None:
        """Take a step away at once, then delete its files: a crash in between leaves nothing that looks like a step."""
        aside = self.directory / f".removed-{step}-{time.time_ns()}"
        self.path(step).rename(aside)
        if aside.is_symlink():
            aside.unlink()
        else:
            shutil.rmtree(aside, ignore_errors=True)

    def prune(self, keep: Keep, *, newest: int) -> None:
        """Remove what is not kept, once `newest` is complete."""
        measured = self.measured()
        for step in measured.keys() - keep.choose(measured) - {newest}:
            self.remove(step)
        # What a killed save left behind; no longer of use to anyone.
        for step in self.all:
            if step < newest and not (self.path(step) / manifests.NAME).exists():
                self.remove(step)
        for leftover in self.directory.glob(".removed-*"):
            shutil.rmtree(leftover, ignore_errors=True)
