"""The settings of a pod: from pod.toml and from flags, checked before anything runs."""

import dataclasses
import re
import shlex
import tomllib
from pathlib import Path

# Default runtime version, and whether the number in the type counts chips (else TensorCores, two to a chip).
# As of 2026-11; https://cloud.google.com/tpu/docs/runtimes has the list.
GENERATIONS = {
    "v4": ("tpu-ubuntu2204-base", False),
    "v5litepod": ("v2-alpha-tpuv5-lite", True),
    "v5p": ("v2-alpha-tpuv5", False),
    "v6e": ("v2-alpha-tpuv6e", True),
}
NAME = r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
MOUNT = "bucket"
# The flags of `jaxnets train` that the worker script fills in.
PLACE = ("--coordinator", "--processes", "--process-id")


class PodError(Exception):
    """What cannot go on: value, rule and remedy."""


class PodUsageError(PodError):
    """A setting that is wrong."""


@dataclasses.dataclass(frozen=True)
class Pod:
    """One slice of TPUs and what to train on it."""

    name: str
    """Of the queued resource and of its node."""
    project: str
    """Google Cloud project."""
    zone: str
    """Zone that has the accelerator."""
    accelerator: str
    """Type, such as v5litepod-16."""
    version: str = ""
    """Runtime version; empty: the usual one of the generation."""
    spot: bool = False
    """Cheaper, and may be taken away at any time."""
    bucket: str = ""
    """Cloud Storage bucket that every worker sees as the folder `bucket`; empty: none."""
    package: str = "jaxnets[tpu]"
    """What pip installs: a requirement, or a wheel on this machine with its extras."""
    command: str = ""
    """What every worker runs, from its home folder."""

    def __post_init__(self) -> None:
        for field in ("name", "project", "zone", "accelerator"):
            if not getattr(self, field):
                raise PodUsageError(f"{field} is missing; give --{field}, or write it in pod.toml")
        _match("name", self.name, NAME, "lower-case letters, digits and hyphens, a letter first, at most 63")
        _match(
            "project",
            self.project,
            r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]",
            "the id of a project, not its title",
        )
        _match("zone", self.zone, r"[a-z]+-[a-z]+\d+-[a-z]", "a region and a letter, such as us-west4-a")
        if self.bucket:
            _match(
                "bucket", self.bucket, r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", "the bucket's name alone, without gs://"
            )
        if self.version:
            _match("version", self.version, r"[a-z0-9][a-z0-9._-]*", "the name of a runtime version")
        _check_accelerator(self.accelerator)
        if "\n" in self.command or "\n" in self.package:
            raise PodUsageError("command and package are one line each; join the lines with `&&`")

    @property
    def generation(self) -> str:
        """The accelerator's type without its size."""
        return self.accelerator.rpartition("-")[0]

    @property
    def chips(self) -> int:
        """Chips, which are what `jax.device_count()` counts."""
        size = int(self.accelerator.rpartition("-")[2])
        return size if GENERATIONS[self.generation][1] else size // 2

    @property
    def workers(self) -> int:
        """Machines: four chips each, but a v5e or v6e of up to eight chips is one machine."""
        alone = 8 if GENERATIONS[self.generation][1] else 4
        return 1 if self.chips <= alone else self.chips // 4

    @property
    def runtime(self) -> str:
        """The version to ask for."""
        return self.version or GENERATIONS[self.generation][0]

    @property
    def wheel(self) -> str:
        """The wheel on this machine that is to be installed; empty if it is a requirement."""
        path = re.sub(r"\[[^\]]*\]$", "", self.package)
        return path if path.endswith(".whl") and "://" not in path else ""

    @property
    def run_dir(self) -> str:
        """The run directory that the command names; empty if it names none."""
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise PodUsageError(f"command is not a shell's ({error}): {self.command}; close its quotes") from error
        for index, word in enumerate(words):
            if word in ("--run-dir", "--run_dir") and index + 1 < len(words):
                return words[index + 1]
            if word.startswith(("--run-dir=", "--run_dir=")):
                return word.partition("=")[2]
        return ""


def check_command(pod: Pod, *, kept: bool = False) -> None:
    """Raise `PodUsageError` unless the command can run on this pod; `kept`: its run must outlive the machines."""
    if not pod.command:
        raise PodUsageError("command is missing; give --command 'jaxnets train ...', or write it in pod.toml")
    if given := [flag for flag in PLACE if flag in pod.command]:
        raise PodUsageError(f"command has {given[0]}, which every worker fills in by itself; leave it out")
    inside = pod.run_dir.removeprefix("./").removeprefix("~/").startswith(MOUNT + "/")
    if (kept or pod.workers > 1) and not (inside and pod.bucket):
        why = "the disks of a pod go with it" if kept else f"its {pod.workers} workers must see one run directory"
        raise PodUsageError(
            f"command keeps its run in {pod.run_dir or 'a default place'!r}, but {why}; name a bucket (--bucket) and give "
            f"the command --run-dir {MOUNT}/runs/NAME"
        )


def check_wheel(pod: Pod) -> None:
    """Raise `PodUsageError` if the package is a wheel that is not here."""
    if pod.wheel and not Path(pod.wheel).is_file():
        raise PodUsageError(
            f"package is {pod.package!r}, and there is no such wheel; make it: pip wheel --no-deps -w dist ."
        )


def read(path: Path | None, flags: dict[str, object]) -> Pod:
    """The settings of a file, if there is one, with those of the flags over them."""
    values: dict[str, object] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except OSError as error:
            raise PodUsageError(f"{path} cannot be read ({error.strerror}); give another file, or flags") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise PodUsageError(f'{path} is not TOML ({error}); write lines such as  name = "llama"') from error
    kinds = {field.name: field.type for field in dataclasses.fields(Pod)}
    for name, value in values.items():
        if name not in kinds:
            raise PodUsageError(f"{path} has {name!r}, which is no setting; there are {', '.join(kinds)}")
        if not isinstance(value, kinds[name]):  # type: ignore[arg-type]
            raise PodUsageError(
                f"{path}: {name} is {value!r}; write {'true or false' if name == 'spot' else 'a text in quotes'}"
            )
    values |= flags
    return Pod(**{name: "" for name in ("name", "project", "zone", "accelerator")} | values)  # type: ignore[arg-type]


def _match(field: str, value: str, pattern: str, rule: str) -> None:
    if not re.fullmatch(pattern, value):
        raise PodUsageError(f"{field} is {value!r}; it is {rule}")


def _check_accelerator(value: str) -> None:
    known = "v5litepod-16, v5p-8, v6e-8 or v4-8"
    found = re.fullmatch(r"([a-z0-9]+)-(\d{1,5})", value)
    if not found or found[1] not in GENERATIONS:
        raise PodUsageError(
            f"accelerator is {value!r}, which is not known; it is one of {', '.join(GENERATIONS)} with a size, "
            f"such as {known}; TPU7x and later are on GKE only (tpu/jobset.yaml)"
        )
    size, by_chips = int(found[2]), GENERATIONS[found[1]][1]
    if by_chips and size not in (1, 4, 8, 16, 32, 64, 128, 256):
        raise PodUsageError(f"accelerator is {value!r}; {found[1]} has 1, 4, 8, 16, 32, 64, 128 or 256 chips")
    if not by_chips and (size < 8 or size % 8):
        raise PodUsageError(f"accelerator is {value!r}; {found[1]} counts TensorCores, in multiples of 8")
