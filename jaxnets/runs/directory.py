"""The run directory: all files of one run, and its only state.

config.json       the resolved experiment, as data
environment.json  platform, devices, mesh, versions, the data's fingerprint
preparation.json  statistics of the training data: scales, vocabularies, columns, names of classes
metrics.jsonl     one object a line
checkpoints/      the state at some steps, each with its manifest
extended.json     changes of the number of steps by --extend or Run.fit; only after one
quarantine.json   batches that are left out, with the reason; only after a roll-back
report.html       one page without external files; its pictures are also in plots/
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxnets.checkpoints.step_folders import StepFolders
from jaxnets.config.check import LINEN_FIELDS
from jaxnets.config.code_digest import edited, without_code
from jaxnets.config.experiment import Experiment
from jaxnets.config.extension import Extension, read_extensions
from jaxnets.config.serialize import built_ins, differences, digest, essential, from_data, to_data
from jaxnets.core.errors import RunDirectoryError, note
from jaxnets.core.files import is_partial, replacing, user_path
from jaxnets.core.renames import with_new_fields
from jaxnets.data.preparation import Preparation
from jaxnets.runs import lock as run_lock


def default_directory(name: str, experiment: Experiment, shipped: Experiment) -> Path:
    """`runs/NAME` for a configuration as it is, `runs/NAME-DIGEST` for one with overrides: one command, one directory."""
    same = digest(experiment) == digest(shipped)
    return Path("runs") / (name if same else f"{name}-{digest(experiment)}")


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A directory that belongs to one experiment."""

    path: Path

    @classmethod
    def claim(
        cls,
        path: Path,
        experiment: Experiment,
        *,
        overwrite: bool = False,
        extend: Callable[[str], None] | None = None,
    ) -> "RunDirectory":
        """The directory for an experiment: new, or with the same experiment in it (which is then resumed).

        With `extend`, the experiment in it may have another number of steps; `extend` is called with the change.

        Raises:
            RunDirectoryError: it holds another run or other files, or cannot be written.
        """
        directory = cls(user_path(path).absolute())
        config = directory.path / "config.json"
        try:
            replaced = overwrite and config.exists()
            if replaced:
                directory._clear()
            elif config.exists():
                directory._check_same(experiment, extend)
            if not replaced:
                cls.check_free(path)
            directory.path.mkdir(parents=True, exist_ok=True)
            directory.write_json("config.json", to_data(experiment))
        except OSError as error:
            raise RunDirectoryError(
                f"cannot write the run directory {directory.path} ({error}); choose another with --run-dir, or get "
                f"permission and space there"
            ) from error
        return directory

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Raise unless a path is new, empty or holds a run, without symbolic links in it; writes nothing."""
        directory = cls(user_path(path).absolute())
        directory._check_links()
        if not (directory.path / "config.json").exists() and directory._has_files():
            raise RunDirectoryError(
                f"{directory.path} has files in it but no run (no config.json); choose an empty or new --run-dir"
            )

    @classmethod
    def existing(cls, path: Path | str, given: Sequence[Any] = ()) -> tuple["RunDirectory", Experiment]:
        """A directory that holds a run, and that run's experiment; `given` are the user's objects in it."""
        directory = cls(user_path(path).absolute())
        if not (directory.path / "config.json").is_file():
            raise RunDirectoryError(f"{path} holds no run (no config.json); give the directory a run was trained in")
        experiment = from_data(directory.read_json("config.json"), given)
        if not isinstance(experiment, Experiment):
            raise RunDirectoryError(f"{path}/config.json describes a {type(experiment).__name__}, not an experiment")
        return directory, experiment

    @property
    def checkpoints(self) -> Path:
        """Where the states are."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The training log."""
        return self.path / "metrics.jsonl"

    @property
    def preparation(self) -> Preparation | None:
        """The statistics of the training data; None if the run has not started, or is of a version that did not save them."""
        if not (self.path / "preparation.json").exists():
            return None
        found = from_data(self.read_json("preparation.json"))
        if not isinstance(found, Preparation):
            raise RunDirectoryError(
                f"{self.path / 'preparation.json'} is not a preparation; restore it, or train again"
            )
        return found

    @classmethod
    def preparation_in(cls, path: Path) -> Preparation | None:
        """The preparation in a path that may hold a run or may not exist."""
        return cls(Path(path).absolute()).preparation

    def read_json(self, name: str) -> Any:
        """The contents of a JSON file of the run."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunDirectoryError(
                f"{self.path / name} cannot be read ({error}); restore it, or train again"
            ) from error

    def read_object(self, name: str) -> dict[str, Any]:
        """The contents of a JSON file that holds an object."""
        data = self.read_json(name)
        if not isinstance(data, dict):
            raise RunDirectoryError(
                f"{self.path / name} holds {type(data).__name__}, not an object; restore it, or train again"
            )
        return data

    @property
    def warm_started(self) -> int | None:
        """The step of the other run whose weights this one started from, once it has started."""
        if not (self.path / "warm_start.json").exists():
            return None
        step = self.read_object("warm_start.json").get("step")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise RunDirectoryError(f"{self.path / 'warm_start.json'} names no step; restore it, or train again")
        return step

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        """The batches that guards left out so far, one entry for each roll-back: step, reason, batches."""
        if not (self.path / "quarantine.json").exists():
            return []
        entries = self.read_json("quarantine.json")
        try:
            return [
                {"step": int(e["step"]), "reason": str(e["reason"]), "batches": [int(b) for b in e["batches"]]}
                for e in entries
            ]
        except (TypeError, KeyError, ValueError) as error:
            raise RunDirectoryError(
                f"{self.path / 'quarantine.json'} is damaged ({type(error).__name__}: {error}); restore it, or train again"
            ) from error

    @property
    def extensions(self) -> list[dict[str, int]]:
        """The changes by `--extend` and `Run.fit` so far."""
        return read_extensions(self.path)

    def write_json(self, name: str, data: Any) -> None:
        """Write a JSON file completely or not at all."""
        with replacing(self.path / name, durable=True) as file:
            file.write((json.dumps(data, indent=2) + "\n").encode())

    def _check_links(self) -> None:
        """Raise `RunDirectoryError` for a symbolic link inside: writing and pruning there would reach files elsewhere."""
        for folder, folders, files in os.walk(self.path):
            for name in (*folders, *files):
                inside = Path(folder) / name
                if inside.is_symlink():
                    raise RunDirectoryError(
                        f"{inside} is a symbolic link to {os.readlink(inside)}; a run writes and removes files only in its "
                        f"own directory. Remove the link, or make the run directory itself a link"
                    )

    def _has_files(self) -> bool:
        """Whether anything but our own unfinished files is in the directory."""
        return self.path.is_dir() and any(
            p.name != run_lock.NAME and not is_partial(p.name) for p in self.path.iterdir()
        )

    def _clear(self) -> None:
        """Remove the files of a run, and no other files."""
        for name in ("checkpoints", "plots", "samples", "tensorboard", "profile"):
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)
        for name in (
            "metrics.jsonl",
            "environment.json",
            "report.html",
            "quarantine.json",
            "warm_start.json",
            "initial.json",
            "preparation.json",
            "extended.json",
            "loggers.json",
            "wandb_id.txt",
            "mlflow_id.txt",
            "metrics.csv",
            "config.json",
        ):
            (self.path / name).unlink(missing_ok=True)

    def _check_same(self, experiment: Experiment, extend: Callable[[str], None] | None) -> None:
        """Raise `RunDirectoryError` unless the run in the directory can be continued as this experiment."""
        saved, wanted = with_defaults(with_new_fields(self.read_json("config.json"))), to_data(experiment)
        changed = differences(without_code(essential(saved)), without_code(essential(wanted)))
        if (
            extend is not None
            and changed
            and isinstance(saved.get("steps"), int)
            and all(line.startswith(("steps: ", "stop.")) for line in changed)
        ):
            done = StepFolders(self.checkpoints).complete[-1:]
            extension = Extension(saved["steps"], experiment.total_steps, done[0] if done else 0)
            extend(extension.said(experiment.optimizer))
            self.write_json("extended.json", [*self.extensions, dataclasses.asdict(extension)])
        elif len(changed) == 1 and changed[0].startswith("steps: ") and isinstance(saved.get("steps"), int):
            self._check_other_length(saved["steps"], experiment)
        elif changed:
            shown = "\n  ".join(changed[:8] + (["..."] if len(changed) > 8 else []))
            raise RunDirectoryError(
                f"{self.path} holds another run; it differs in\n  {shown}\n"
                f"Choose another --run-dir, or replace that run with --overwrite"
            )
        other, unknown = edited(saved, wanted)
        if other:
            raise RunDirectoryError(
                f"{self.path} holds a run of {', '.join(other)} as it was before an edit: its code, or a function, class or "
                f"value that it uses, is another now. Choose another --run-dir (run_dir=...), or replace that run with "
                f"--overwrite (overwrite=True)"
            )
        if unknown:
            note(
                f"whether the code of {', '.join(unknown)} is still that of the run in {self.path} cannot be determined: it "
                f"was written by another version of Python or of jaxnets"
            )

    def _check_other_length(self, before: int, experiment: Experiment) -> None:
        """Raise `RunDirectoryError` unless a run of the new length would have the same finished steps."""
        done, steps = StepFolders(self.checkpoints).complete[-1:], experiment.total_steps
        trained = done[0] if done else 0
        ways = "choose another --run-dir, or replace that run with --overwrite"
        if steps < trained:
            raise RunDirectoryError(
                f"{self.path} holds a run that has done {trained} steps of {before}, more than steps={steps}; ask for "
                f"{before} steps to leave it unchanged (or --extend {before - steps}), {ways}"
            )
        old, new = (experiment.optimizer.rates(length, trained) for length in (before, steps))
        if old is None or new is None:
            raise RunDirectoryError(
                f"{self.path} holds a run of {before} steps, and whether {steps} would have begun with the same learning "
                f"rates cannot be determined for {type(experiment.optimizer).__name__}, which has no `rates`; {ways}"
            )
        if (old != new).any():
            at = int((old != new).argmax())
            raise RunDirectoryError(
                f"{self.path} holds another run; it differs in\n  steps: {before} there, {steps} here\nand the learning rates "
                f"of the steps that are done depend on it: at step {at} {old[at]:.4g} there, {new[at]:.4g} here. A run with a "
                f"constant rate (optim.Constant) can be trained for longer; else continue with a changed schedule (--extend, "
                f"or open_run(directory).fit(steps=...)), {ways}, or start a new one from its weights (warm_start)"
            )


def with_defaults(data: Any) -> Any:
    """A saved configuration with newer fields of its classes added at their defaults."""
    if isinstance(data, list):
        return [with_defaults(item) for item in data]
    if not isinstance(data, dict):
        return data
    filled = {key: with_defaults(value) for key, value in data.items()}
    cls = built_ins().get(str(data.get("type")))
    for field in dataclasses.fields(cls) if cls is not None and dataclasses.is_dataclass(cls) else ():
        if field.init and field.name not in (*data, *LINEN_FIELDS) and field.default is not dataclasses.MISSING:
            filled[field.name] = to_data(field.default)
    return filled
