"""`jaxnets ckpt`: look at checkpoints without the model's code and without an accelerator."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jaxnets.checkpoints.manifest import Manifest
from jaxnets.checkpoints.step_folders import StepFolders
from jaxnets.core.errors import CheckpointError, UsageError, did_you_mean
from jaxnets.core.files import replacing, user_path

HELP = """jaxnets ckpt: look at checkpoints, without the model's code

  jaxnets ckpt ls RUN                 the checkpoints of a run: step, size, metrics, whether complete
  jaxnets ckpt verify RUN[:STEP]      read every byte of one or all, compare with the digests; exit 1 if any is damaged
  jaxnets ckpt digest RUN[:STEP]      the digest of every leaf, and one of all
  jaxnets ckpt diff A[:STEP] B[:STEP] leaves that differ between two checkpoints
  jaxnets ckpt export RUN[:STEP] FILE the arrays as one .npz file, its names the paths of the leaves

RUN is a run directory; without :STEP the newest checkpoint that verifies is taken.
"""
# The subcommands, and how many arguments each takes.
VERBS = {"ls": 1, "verify": 1, "digest": 1, "diff": 2, "export": 2}


def run(arguments: Sequence[str]) -> int:
    """Run one subcommand and return its exit code."""
    actions: dict[str, Callable[..., int]] = {
        "ls": _ls, "verify": _verify, "digest": _digest, "diff": _diff, "export": _export,
    }  # fmt: skip
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        raise UsageError(f"there is no command `jaxnets ckpt {verb}`. {did_you_mean(verb, VERBS)}")
    count = VERBS[verb]
    if len(rest) != count:
        raise UsageError(
            f"`jaxnets ckpt {verb}` takes {count} argument{'s' * (count > 1)}, got {len(rest)}; see `jaxnets ckpt`"
        )
    return actions[verb](*rest)


def _ls(place: str) -> int:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    folders, _ = _open(place)
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("step", "leaves", "MB", "test metrics", "state"):
        table.add_column(column)
    for step in folders.all:
        try:
            manifest = folders.manifest(step)
        except CheckpointError as error:
            table.add_row(str(step), "", "", "", escape(str(error)))
            continue
        size = sum(entry.size for entry in manifest.files.values())
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in manifest.metrics.items() if name != "examples")
        table.add_row(str(step), str(len(manifest.leaves)), f"{size / 1e6:.2f}", escape(metrics), "complete")
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    print("bytes are not verified by this: see `jaxnets ckpt verify`")
    return 0


def _verify(place: str) -> int:
    folders, step = _open(place)
    steps = folders.all if step is None else [step]
    if not steps:
        raise CheckpointError(f"{folders.directory} has no checkpoints")
    damaged = 0
    for each in steps:
        try:
            manifest = folders.verify(each)
            _check_leaves(folders, each, manifest)
        except CheckpointError as error:
            damaged += 1
            print(f"{each}: {error}")
        else:
            print(f"{each}: good ({len(manifest.files)} files, {len(manifest.leaves)} leaves)")
    return 1 if damaged else 0


def _digest(place: str) -> int:
    import hashlib

    _, manifest = _choose(place)
    for path, leaf in sorted(manifest.leaves.items()):
        print(f"{leaf.digest}  {leaf.dtype}[{','.join(map(str, leaf.shape))}]  {path}")
    whole = hashlib.sha256("".join(f"{p}{v.digest}" for p, v in sorted(manifest.leaves.items())).encode()).hexdigest()[
        :16
    ]
    print(f"{whole}  all of step {manifest.step}")
    return 0


def _diff(first: str, second: str) -> int:
    from jaxnets.checkpoints.compare import mismatches, table

    (folders_a, a), (folders_b, b) = _choose(first), _choose(second)
    rows = mismatches(
        {p: (leaf.shape, leaf.dtype) for p, leaf in a.leaves.items()},
        {p: (leaf.shape, leaf.dtype) for p, leaf in b.leaves.items()},
    )
    if rows:
        print(table(rows, ("leaf", first, second, "likely because"), limit=len(rows)))
    common = [p for p in sorted(a.leaves.keys() & b.leaves.keys()) if a.leaves[p].shape == b.leaves[p].shape]
    moved = [path for path in common if a.leaves[path].digest != b.leaves[path].digest]
    if moved:
        import numpy as np

        left, right = (_arrays(f, m, set(moved)) for f, m in ((folders_a, a), (folders_b, b)))
        for path in moved:
            a, b = left[path].astype(np.float64), right[path].astype(np.float64)
            differ = (a != b) & ~(np.isnan(a) & np.isnan(b))
            most = float(np.abs(a - b)[differ].max(initial=0.0))
            print(f"  {path}: {int(differ.sum()):,} of {a.size:,} elements differ, by at most {most:.3g}")
    print(
        f"{len(common) - len(moved)} leaves are equal, {len(moved)} differ in value, {len(rows)} in shape, dtype or presence"
    )
    return 1 if rows or moved else 0


def _export(place: str, target: str) -> int:
    import numpy as np

    folders, manifest = _choose(place)
    path = user_path(target)
    if path.suffix != ".npz":
        raise UsageError(f"`jaxnets ckpt export` writes .npz files, got {target!r}")
    if not os.path.isdir(path.absolute().parent):
        raise CheckpointError(f"cannot write {path}: its folder is not there; make it first, or choose another place")
    arrays = _arrays(folders, manifest, set(manifest.leaves))
    # npz supports only numpy's own formats; bfloat16 and similar formats fit into float32 without loss.
    plain = {p: a if a.dtype.kind in "biufc" else a.astype(np.float32) for p, a in arrays.items()}
    try:
        with replacing(path) as file:
            np.savez(file, **plain)
    except OSError as error:
        raise CheckpointError(f"cannot write {path} ({error}); choose another place") from error
    print(f"{len(plain)} arrays of step {manifest.step} in {path}")
    return 0


def _open(place: str) -> tuple[StepFolders, int | None]:
    """The checkpoints of `RUN` or `RUN:STEP`."""
    path, _, step = place.rpartition(":")
    if not path or not step.isdecimal() or os.path.isdir(user_path(place) / "checkpoints"):  # a name may have a colon
        path, step = place, ""
    folder = user_path(path)
    if not os.path.isdir(folder / "checkpoints"):
        raise CheckpointError(f"{path!r} has no checkpoints; give the directory of a run")
    return StepFolders((folder / "checkpoints").absolute()), int(step) if step else None


def _choose(place: str) -> tuple[StepFolders, Manifest]:
    folders, step = _open(place)
    if step is not None:
        return folders, folders.verify(step)
    found = folders.newest_verified()
    for why in found.rejected:
        print(f"skipped: {why}", file=sys.stderr)
    if found.step is None:
        raise CheckpointError(f"{folders.directory} has no undamaged checkpoint")
    return folders, folders.manifest(found.step)


def _arrays(folders: StepFolders, manifest: Manifest, paths: set[str]) -> dict[str, Any]:
    _use_cpu()
    from jaxnets.checkpoints.read_leaves import read_leaves

    return read_leaves(folders.path(manifest.step), manifest.leaves, only=paths)


def _check_leaves(folders: StepFolders, step: int, manifest: Manifest) -> None:
    """Raise unless every leaf has the digest it was saved with."""
    arrays = _arrays(folders, manifest, set(manifest.leaves))
    from jaxnets.checkpoints.digest import read_digests, start_digests

    for path, digest in read_digests(start_digests(arrays)).items():
        if digest != manifest.leaves[path].digest:
            raise CheckpointError(f"{folders.path(step)}: {path} is not what was saved")


def _use_cpu() -> None:
    """Inspecting files needs no accelerator, and must not take one from a run that uses it."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_platforms", "cpu")
