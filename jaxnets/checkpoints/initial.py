"""Start a run from arrays in memory: a model's variables, imported weights, or another run's."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.errors import UsageError

# Low-rank adapters (`models.LoRA`) may be missing in initial weights, which are usually those of the base model.
ADAPTERS = (r".*/lora_[ab]",)


@dataclasses.dataclass(frozen=True)
class Initial:
    """Initial weights; every leaf of the model must be there, with its shape, except adapters and the leaves in `fresh`."""

    variables: Mapping[str, Any]
    """`{"params": ..., ...}` as a module's `init` returns it, or the parameters alone."""
    fresh: tuple[str, ...] = ()
    """Leaves that keep their random values, as regular expressions for whole paths (`params/output/.*`)."""
    ignore: tuple[str, ...] = ()
    """Leaves of `variables` that are not used, in the same form."""
    renames: tuple[tuple[str, str], ...] = ()
    """(regular expression, replacement) pairs, for the paths of `variables`: `("^params/body/", "params/")`."""

    def leaves(self) -> dict[str, Any]:
        """The arrays by path, renamed and without the ignored ones."""
        tree = self.variables if "params" in self.variables else {"params": self.variables}
        found = {}
        for path, leaf in leaf_paths(nn.unbox(jax.tree.map(lambda a: a, dict(tree)))).items():
            for pattern, replacement in self.renames:
                path = re.sub(pattern, replacement, path)
            if path in found:
                raise UsageError(f"initial.renames gives two arrays the path {path!r}; make its patterns narrower")
            found[path] = leaf
        return {path: leaf for path, leaf in found.items() if not _matches(path, self.ignore)}

    def digest(self) -> str:
        """Sixteen hex digits that identify the arrays and the options."""
        whole = hashlib.sha256(repr((self.fresh, self.ignore, self.renames)).encode())
        for path, leaf in sorted(self.leaves().items()):
            array = np.asarray(jax.device_get(leaf))
            whole.update(f"{path} {array.dtype} {array.shape}".encode())
            whole.update(np.ascontiguousarray(array).tobytes())
        return whole.hexdigest()[:16]


def begin_with(initial: Initial, state: Any, shardings: Any) -> tuple[Any, str]:
    """A fresh state with these weights, and a sentence about what was used.

    Raises:
        UsageError: leaves are missing, left over, or of another shape; the message lists them.
    """
    given = initial.leaves()
    wanted = {_variable_path(path): path for path in leaf_paths(state) if path.startswith(("params/", "model_state/"))}
    fresh = {path for path in wanted if _matches(path, initial.fresh)}
    fresh |= {path for path in wanted if path not in given and _matches(path, ADAPTERS)}
    leaves, placed = leaf_paths(state), leaf_paths(shardings)
    lines = [f"  {path}: missing" for path in wanted if path not in given and path not in fresh]
    lines += [f"  {path}: not in the model" for path in given if path not in wanted]
    for path, own in wanted.items():
        if path in given and path not in fresh and np.shape(given[path]) != leaves[own].shape:
            lines.append(f"  {path}: {list(np.shape(given[path]))}, the model has {list(leaves[own].shape)}")
    if lines:
        more = f"\n  and {len(lines) - 12} more" if len(lines) > 12 else ""
        raise UsageError(
            "the initial weights do not fit the model:\n"
            + "\n".join(lines[:12])
            + more
            + "\nInitial(variables, fresh=..., "
            "ignore=..., renames=...) says which leaves keep random values, which are not used, and other names"
        )
    used = {own: path for path, own in wanted.items() if path not in fresh}
    new = {
        path: jax.device_put(jnp.array(given[used[path]], leaf.dtype), placed[path]) if path in used else leaf
        for path, leaf in leaves.items()
    }
    state = jax.tree.unflatten(jax.tree.structure(state), list(new.values()))
    if jax.tree.leaves(state.average):
        state = dataclasses.replace(
            state, average=jax.tree.map(jnp.copy, {"params": state.params, **state.model_state})
        )
    return state, f"{len(used)} leaves given, {len(fresh)} fresh{_listed(fresh)}"


def _listed(paths: set[str]) -> str:
    return f" ({', '.join(sorted(paths)[:4])}{', ...' if len(paths) > 4 else ''})" if paths else ""


def _variable_path(path: str) -> str:
    return path.removeprefix("model_state/")


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in patterns)
