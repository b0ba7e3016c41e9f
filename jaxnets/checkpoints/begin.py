"""Start a new run from another run's weights."""

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.checkpoints.checkpoint import Checkpoints
from jaxnets.checkpoints.compare import mismatches, table
from jaxnets.checkpoints.digest import leaf_paths, read_digests, start_digests
from jaxnets.checkpoints.initial import ADAPTERS
from jaxnets.checkpoints.manifest import Leaf
from jaxnets.checkpoints.names import Orders, reordered
from jaxnets.checkpoints.read_leaves import read_leaves
from jaxnets.checkpoints.warm_start import WarmStart
from jaxnets.core.errors import CheckpointError, UsageError
from jaxnets.core.files import user_path


def begin_from(
    warm: WarmStart,
    state: Any,
    shardings: Any,
    compare: Callable[[Collection[str]], tuple[Orders, str]] = lambda fresh: ({}, ""),
) -> tuple[Any, int, str]:
    """A fresh state with the weights of another run, the step of these weights, and a sentence about what was loaded.

    `params` and `model_state` are loaded (the averaged ones if that run averaged).

    Args:
        warm: which run, and what may differ.
        state: the fresh state.
        shardings: where its leaves go.
        compare: gives, for the paths that stay fresh, how the others have to be reordered (see `names.compare_names`).

    Raises:
        CheckpointError: there is no good checkpoint, leaves differ that `warm` does not allow to, or names do.
    """
    checkpoints = Checkpoints(user_path(warm.run) / "checkpoints")
    step = warm.step or checkpoints.newest_verified().step
    if step is None:
        raise CheckpointError(f"{warm.run} has no undamaged checkpoint; see `jaxnets ckpt verify {warm.run}`")
    saved = checkpoints.folders.verify(step).leaves
    averaged = any(path.startswith("average/") for path in saved)
    source = "average/" if averaged else ""
    roots = ("params/", "model_state/")
    here = {path: leaf for path, leaf in leaf_paths(state).items() if path.startswith(roots)}
    names = {path: _name_there(path, averaged) for path in here}
    fresh = {path for path in here if _matches(path, warm.fresh)}
    fresh |= {path for path in here if re.fullmatch(ADAPTERS[0], path) and names[path] not in saved}
    _check_patterns(warm.fresh, here, "fresh", "this run")
    there = {path: leaf for path, leaf in saved.items() if path.startswith(source or roots)}
    _check_patterns(warm.ignore, there, "ignore", "that run")
    wanted = {names[path]: _signature(leaf) for path, leaf in here.items() if path not in fresh}
    unused = {names[path] for path in fresh}
    offered = {
        path: (leaf.shape, leaf.dtype)
        for path, leaf in there.items()
        if path not in unused and not _matches(path, warm.ignore)
    }
    rows = mismatches(offered, wanted)
    if warm.cast:
        rows = [
            row
            for row in rows
            if not (offered.get(row[0]) and wanted.get(row[0]) and offered[row[0]][0] == wanted[row[0]][0])
        ]
    if rows:
        raise CheckpointError(
            f"the weights of {warm.run}, step {step}, do not fit this run:\n{table(rows)}\n"
            f"Allow a difference by name: --warm-start.fresh PATTERN keeps new values here, --warm-start.ignore PATTERN drops "
            f"what is only there, --warm-start.cast converts number formats"
        )
    orders, differs = compare(fresh)
    taken = _read(checkpoints, step, saved, {names[path] for path in here if path not in fresh})
    placed = leaf_paths(shardings)
    leaves = []
    for path, leaf in leaf_paths(state).items():
        if path in here and path not in fresh:
            leaf = jax.device_put(
                jnp.asarray(reordered(path, taken[names[path]], orders)).astype(leaf.dtype), placed[path]
            )
        leaves.append(leaf)
    new = jax.tree.unflatten(jax.tree.structure(state), leaves)
    if jax.tree.leaves(new.average):
        copied = jax.tree.map(jnp.copy, {"params": new.params, **new.model_state})
        new = dataclasses.replace(new, average=copied)
    kept = f", {len(fresh)} fresh ({', '.join(sorted(fresh)[:4])})" if fresh else ""
    return (
        new,
        step,
        f"{len(here) - len(fresh)} leaves from {warm.run}, step {step}{' (averaged)' if averaged else ''}{kept}"
        + (f"; {differs}" if differs else ""),
    )


def _name_there(path: str, averaged: bool) -> str:
    if not averaged:
        return path
    return "average/" + path.removeprefix("model_state/")


def _signature(leaf: Any) -> tuple[tuple[int, ...], str]:
    return tuple(leaf.shape), str(leaf.dtype)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _check_patterns(patterns: tuple[str, ...], paths: Any, field: str, whose: str) -> None:
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
            shown = ", ".join(list(paths)[:6])
            raise UsageError(f"warm_start.{field} {pattern!r} matches no leaf of {whose}; it has {shown}, ...")


def _read(checkpoints: Checkpoints, step: int, saved: dict[str, Leaf], paths: set[str]) -> dict[str, Any]:
    """The named leaves, digests checked."""
    arrays = read_leaves(checkpoints.directory / str(step), saved, only=paths)
    for path, digest in read_digests(start_digests(arrays)).items():
        if digest != saved[path].digest:
            raise CheckpointError(f"{checkpoints.directory / str(step)}: {path} is not what was saved")
    return arrays
