"""Compares the leaves of a checkpoint with those of a run: one table with every difference and its likely cause."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.checkpoints.manifest import Leaf
from jaxnets.core.errors import CheckpointError

SHOWN = 12


def check_same(saved: Mapping[str, Leaf], like: Any, place: Path) -> None:
    """Raise `CheckpointError` with a table unless a checkpoint has exactly the leaves of `like`."""
    wanted = {path: (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in leaf_paths(like).items()}
    rows = mismatches({path: (leaf.shape, leaf.dtype) for path, leaf in saved.items()}, wanted)
    if rows:
        raise CheckpointError(
            f"{place} does not fit this run:\n{table(rows)}\n"
            f"To continue this run, use the configuration it was trained with. To start another from its weights, use "
            f"--warm-start.run and name what may differ with --warm-start.fresh, or allow other number formats with "
            f"--warm-start.cast"
        )


Signature = tuple[tuple[int, ...], str]
Row = tuple[str, str, str, str]


def mismatches(saved: Mapping[str, Signature], wanted: Mapping[str, Signature]) -> list[Row]:
    """(path, saved, wanted, likely cause) for every leaf that differs."""
    rows = []
    for path in sorted(saved.keys() | wanted.keys()):
        there, here = saved.get(path), wanted.get(path)
        if there == here:
            continue
        rows.append((path, _show(there), _show(here), _cause(path, there, here)))
    return rows


HEAD = ("leaf", "saved", "wanted", "likely because")


def table(rows: list[Row], head: Row = HEAD, *, limit: int = SHOWN) -> str:
    """The rows in aligned columns, up to a limit."""
    shown = [head, *rows[:limit]]
    widths = [max(len(row[column]) for row in shown) for column in range(3)]
    lines = [
        "  " + "  ".join(text.ljust(w) for text, w in zip(row, [*widths, 0], strict=True)).rstrip() for row in shown
    ]
    return "\n".join(lines + ([f"  ... and {len(rows) - limit} more"] if len(rows) > limit else []))


def _show(signature: Signature | None) -> str:
    if signature is None:
        return "-"
    shape, dtype = signature
    return f"{dtype}[{','.join(map(str, shape))}]"


def _cause(path: str, saved: Signature | None, wanted: Signature | None) -> str:
    root = path.split("/")[0]
    if saved is None or wanted is None:
        where = "only this run has it" if saved is None else "only the checkpoint has it"
        return {
            "opt_state": f"another optimizer: {where}",
            "average": f"averaging was switched on or off: {where}",
            "guard": f"other precision: {where}",
            "model_state": f"another normalisation: {where}",
        }.get(root, f"another architecture: {where}")
    if saved[0] == wanted[0]:
        return "another number format (precision)"
    if len(saved[0]) == len(wanted[0]) and saved[0][:-1] == wanted[0][:-1]:
        return "another width, or another number of classes"
    return "another architecture"
