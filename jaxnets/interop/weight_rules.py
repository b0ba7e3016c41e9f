"""Converts weights of other libraries by declarative tables: their name, our path, the change of layout.

A table is a list of rules (see `weights.py`). It is an error if a name matches no rule and is not a known buffer, if two
names give one leaf, or if a leaf gets no array: weights load completely or not at all.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.core.errors import DataError

Arrays = Mapping[str, np.ndarray]
# Buffers, which files hold but models compute: rotary tables, GPT-2's causal masks (arrays of four dims, and the number that
# stands for minus infinity), position ids, batch counts.
BUFFERS = (
    re.compile(r"(^|.*\.)rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)"),
    re.compile(r"(^|.*\.)h\.[0-9]+\.(attn|crossattention)\.(bias|masked_bias)"),
    re.compile(r"(^|.*\.)position_ids"),
    re.compile(r"(^|.*\.)num_batches_tracked"),
)
# Prefixes that wrappers add to names: torch's DataParallel, its compile, and the modules that hold the model.
PREFIXES = ("", "module.", "model.", "transformer.", "base_model.")
_COMPILED = "_orig_mod."


@dataclasses.dataclass(frozen=True)
class Rule:
    """One of their names, or a pattern of names, and our path for it."""

    name: str
    """Their name; `{i}`, `{j}` stand for numbers."""
    path: str
    """Our path, e.g. `params/block_{i}/query/kernel`."""
    into: Callable[[np.ndarray], np.ndarray] = np.asarray
    """Converts their array to ours."""
    back: Callable[[np.ndarray], np.ndarray] = np.asarray
    """Converts our array to theirs."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One of their arrays that is the concatenation of several of ours along the last dim."""

    name: str
    paths: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Stack:
    """Several of their arrays, numbered by `{j}`, that are stacked, each transposed, along the first dim of one of ours."""

    name: str
    path: str


@dataclasses.dataclass(frozen=True)
class Same:
    """One of their arrays that duplicates another: an output layer tied to the embedding. It is an error if the two differ;
    if the other is missing, this one is used instead."""

    name: str
    path: str
    """Our path of the other array."""


AnyRule = Rule | Split | Stack | Same
Table = Sequence[AnyRule]


def load_weights(arrays: Arrays, table: Table, like: Any, *, prefixes: Sequence[str] = PREFIXES) -> Any:
    """Variables from another library's arrays.

    Args:
        arrays: their arrays, by name.
        table: how names and layouts correspond.
        like: the shapes of our variables (`jax.eval_shape` of the model's `init`).
        prefixes: prefixes to remove from names, also several in a row, before the table applies; `_orig_mod.` of compiled
            modules is removed anywhere.

    Raises:
        DataError: names match no rule, two names give one leaf, leaves get no array, shapes differ, an output layer differs
            from the embedding though the model ties them, or arrays are integers (quantised weights); the message names each.
    """
    found: dict[str, np.ndarray] = {}
    sources: dict[str, str] = {}
    again: list[tuple[str, str, np.ndarray]] = []
    left, twice = [], []
    for name, array in ((name, np.asarray(array)) for name, array in arrays.items()):
        if is_buffer(name, array):
            continue
        bare, rule, numbers = _rule_for(name, table, prefixes)
        if rule is None:
            left.append(name)
        elif isinstance(rule, Same):
            again.append((name, rule.path, array))
        else:
            for path, part in _place(bare, array, rule, numbers).items():
                twice += [f"{sources[path]} and {name}"] if path in sources else []
                found[path], sources[path] = part, name
    _check_same(again, found, sources)
    found = _stack(found)
    wanted = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    both = sorted(wanted.keys() & found.keys())
    wrong = [f"{p}: {found[p].shape} there, {wanted[p].shape} here" for p in both if found[p].shape != wanted[p].shape]
    kinds = [f"{p}: {found[p].dtype}" for p in both if _is_real(wanted[p].dtype) and not _is_real(found[p].dtype)]
    for what, which in (("names that are not in the table", left), ("two names for one array", twice),
                        ("leaves without an array", missing), ("arrays that this model does not have", extra),
                        ("shapes that differ", wrong), ("weights that are not floats (quantised?)", kinds)):  # fmt: skip
        if which:
            shown = ", ".join(which[:6]) + (f" and {len(which) - 6} more" if len(which) > 6 else "")
            raise DataError(
                f"the weights do not fit the model: {what}: {shown}. Use the table and the sizes of the saved model"
            )
    paths = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    leaves = [np.asarray(found[path]).astype(wanted[path].dtype) for path in paths]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def is_buffer(name: str, array: np.ndarray) -> bool:
    """Whether an array of a file is one of `BUFFERS`, which are not parameters."""
    name = name.replace(_COMPILED, "")
    if BUFFERS[1].fullmatch(name) and array.ndim not in (0, 4):
        return False
    return any(pattern.fullmatch(name) for pattern in BUFFERS)


def bare_names(name: str, prefixes: Sequence[str] = PREFIXES) -> list[str]:
    """The name with none, one or several of the prefixes removed."""
    names = [name.replace(_COMPILED, "")]
    for longer in names:
        names += [short for prefix in prefixes if prefix and longer.startswith(prefix)
                  and (short := longer.removeprefix(prefix)) not in names]  # fmt: skip
    return names


def _rule_for(name: str, table: Table, prefixes: Sequence[str]) -> tuple[str, AnyRule | None, dict[str, str]]:
    """The name without its prefix, the rule that matches it, and the numbers in it; the rule is None if none matches."""
    for bare in bare_names(name, prefixes):
        for rule in table:
            numbers = _match(rule.name, bare)
            if numbers is not None:
                return bare, rule, numbers
    return name, None, {}


def _check_same(
    again: Sequence[tuple[str, str, np.ndarray]], found: dict[str, np.ndarray], sources: dict[str, str]
) -> None:
    """Raise `DataError` if a duplicate array differs from the original; if the original is missing, use the duplicate."""
    for name, path, array in again:
        if path not in found:
            found[path], sources[path] = array, name
        elif not same_numbers(array, found[path]):
            raise DataError(
                f"the weights do not fit the model: {name} differs from {sources[path]}, but the model has one "
                f"array for both (embedding='tied'). Set embedding='untied', and use the table for that"
            )


def same_numbers(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same shape and numbers."""
    return a.shape == b.shape and bool(np.array_equal(a, b))


def _is_real(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


def save_weights(variables: Any, table: Table) -> dict[str, np.ndarray]:
    """The inverse of `load_weights`: arrays with their names and layouts.

    Raises:
        DataError: the table has no name for an array, or the format needs an array that the model does not have.
    """
    ours = {_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    theirs: dict[str, np.ndarray] = {}
    used: set[str] = set()
    without: list[str] = []
    for rule in table:
        if isinstance(rule, Same):
            continue
        paths = rule.paths if isinstance(rule, Split) else (rule.path,)
        before = len(theirs)
        for first in sorted(ours):
            numbers = _match(paths[0], first)
            if numbers is None:
                continue
            parts = [ours[_fill(path, numbers)] for path in paths]
            used |= {_fill(path, numbers) for path in paths}
            name = _fill(rule.name, numbers)
            if isinstance(rule, Stack):
                theirs |= {_fill(name, {"j": str(j)}): array.T for j, array in enumerate(parts[0])}
                continue
            theirs[name] = np.concatenate(parts, axis=-1) if isinstance(rule, Split) else rule.back(parts[0])
        if len(theirs) == before:
            without.append(paths[0])
    if used != ours.keys():
        raise DataError(
            f"the table has no name for {', '.join(sorted(ours.keys() - used)[:6])}; use the table of the model's family"
        )
    if without:
        raise DataError(
            f"the table's format needs {', '.join(without[:6])}, which this model does not have, so it cannot be saved in "
            f"it (e.g. models with norms after the sums have no final norm); use the table of the model's family"
        )
    return {name: np.ascontiguousarray(array) for name, array in theirs.items()}


def _stack(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Stack the numbered parts (`path#j`) of each `Stack` rule."""
    whole = {path: array for path, array in found.items() if "#" not in path}
    for path in sorted({path.split("#")[0] for path in found.keys() - whole.keys()}):
        numbers = sorted(int(name.split("#")[1]) for name in found if name.startswith(f"{path}#"))
        parts = [found[f"{path}#{j}"] for j in numbers]
        if numbers != list(range(len(numbers))) or len({part.shape for part in parts}) > 1:
            raise DataError(
                f"the weights do not fit the model: {path} is a stack of arrays of one shape, numbered from 0, but there are "
                f"numbers {numbers} of shapes {sorted({part.shape for part in parts})}; the file is incomplete"
            )
        whole[path] = np.stack(parts)
    return whole


def _place(name: str, array: np.ndarray, rule: AnyRule, numbers: dict[str, str]) -> dict[str, np.ndarray]:
    """Our leaves, by path, from one of their arrays."""
    if isinstance(rule, Stack):
        return {f"{_fill(rule.path, numbers)}#{numbers['j']}": array.T}
    if isinstance(rule, Split):
        if not array.ndim or array.shape[-1] % len(rule.paths):
            raise DataError(
                f"the weights do not fit the model: {name} of shape {array.shape} holds {len(rule.paths)} arrays side by "
                f"side, but its last dim is not divisible by {len(rule.paths)}"
            )
        parts = np.split(array, len(rule.paths), axis=-1)
        return {_fill(path, numbers): part for path, part in zip(rule.paths, parts, strict=True)}
    assert isinstance(rule, Rule)
    return {_fill(rule.path, numbers): rule.into(array)}


def _match(pattern: str, name: str) -> dict[str, str] | None:
    found = re.fullmatch(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>[0-9]+)", re.escape(pattern)), name)
    return found.groupdict() if found else None


def _fill(pattern: str, numbers: Mapping[str, str]) -> str:
    for letter, number in numbers.items():
        pattern = pattern.replace(f"{{{letter}}}", number)
    return pattern


def _name(path: Any) -> str:
    """A tree path as `params/block_0/query/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
