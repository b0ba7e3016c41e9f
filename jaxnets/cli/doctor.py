"""`jaxnets doctor`: the devices and software of this machine, its problems, and their remedies."""

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxnets.core.errors import DataError, UsageError, first_line
from jaxnets.core.files import physical_memory
from jaxnets.core.versions import versions

DEVICE_FILES = ("/dev/accel*", "/dev/vfio/*", "/dev/nvidia[0-9]*")


def run(arguments: Sequence[str]) -> int:
    """Print the findings; returns 1 if a problem would prevent a run from using its accelerator or its disk."""
    if arguments:
        raise UsageError(f"`jaxnets doctor` takes no arguments, got {' '.join(arguments)}")
    problems: list[str] = []
    for title, rows in (
        ("machine", _machine()),
        ("versions", list(versions().items())),
        ("devices", _devices(problems)),
        ("settings", _settings(problems)),
        ("who holds the accelerator", _holders()),
    ):
        print(title)
        for name, value in rows:
            print(f"  {name:<22} {value}")
    print("problems" if problems else "no problems found")
    for problem in problems:
        print(f"  - {problem}")
    return 1 if problems else 0


def _machine() -> list[tuple[str, str]]:
    rows = [
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("python", f"{platform.python_version()} at {sys.executable}"),
        ("cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())),
    ]
    if physical_memory():
        rows.append(("memory", f"{physical_memory() / 1e9:.1f} GB"))
    rows.append(("free disk here", f"{shutil.disk_usage('.').free / 1e9:.1f} GB"))
    return rows


def _devices(problems: list[str]) -> list[tuple[str, str]]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        problems.append(
            f"JAX cannot start its devices ({first_line(error)}). If another process holds the accelerator, end it (below); "
            f"if JAX_PLATFORMS names a platform that is not here, unset it"
        )
        return [("devices", "none")]
    rows = [("platform", devices[0].platform), ("processes", str(jax.process_count()))]
    for device in devices:
        stats = device.memory_stats() or {}
        limit = f", {stats['bytes_limit'] / 1e9:.1f} GB" if "bytes_limit" in stats else ""
        rows.append((f"device {device.id}", f"{device.device_kind}{limit}"))
    hardware = [path for pattern in DEVICE_FILES for path in Path("/").glob(pattern.lstrip("/"))]
    if devices[0].platform == "cpu" and hardware and not os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        problems.append(
            f"there is an accelerator ({hardware[0]}), but JAX runs on the CPU: install its plugin (`pip install "
            f"jaxnets[cuda13]` or `jaxnets[tpu]`), or see who holds it"
        )
    return rows


def _settings(problems: list[str]) -> list[tuple[str, str]]:
    from jaxnets.core.download import cache_directory, data_directory

    cache: Path | None = None
    try:
        folder = cache = cache_directory()
        near = next((place for place in (folder, *folder.parents) if place.exists()), folder)
        if not near.is_dir() or not os.access(near, os.W_OK):
            problems.append(f"the cache {cache} cannot be written: set JAXNETS_CACHE to a folder that can")
    except (DataError, OSError) as error:
        problems.append(f"there is no cache: {error}")
    where = os.environ.get("JAX_COMPILATION_CACHE_DIR") or (str(cache / "xla") if cache else "")
    compiled = Path(where or os.devnull)
    entries = list(compiled.glob("*")) if compiled.is_dir() else []
    size = sum(entry.stat().st_size for entry in entries if entry.is_file())
    data = data_directory()
    if data is not None and not data.is_dir():
        problems.append(f"JAXNETS_DATA is {data}, which is not a directory: correct or unset it")
    rows = [
        ("compilation cache", f"{where}: {len(entries)} entries, {size / 1e6:.0f} MB" if where else "none"),
        ("JAXNETS_DATA", str(data or "not set")),
    ]
    return rows + [
        (name, os.environ[name])
        for name in ("XLA_FLAGS", "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES")
        if name in os.environ
    ]


def _holders() -> list[tuple[str, str]]:
    """Processes with an accelerator's device file open, as far as this user can see them."""
    wanted = {str(path) for pattern in DEVICE_FILES for path in Path("/").glob(pattern.lstrip("/"))}
    if not wanted:
        return [("", "no accelerator's device file on this machine")]
    rows = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            held = {os.readlink(link) for link in (process / "fd").iterdir()} & wanted
            if held and process.name != str(os.getpid()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:60]
                rows.append(
                    (
                        f"process {process.name}",
                        f"{command.strip()} holds {', '.join(sorted(held))}: `kill {process.name}`",
                    )
                )
        except OSError:  # gone meanwhile, or another user's
            continue
    return rows or [("", "none that this user can see")]
