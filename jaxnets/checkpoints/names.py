"""Matches the weights of another run by its names: class 1 there may be class 0 here."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.errors import CheckpointError
from jaxnets.core.types import Batch
from jaxnets.data.preparation import Preparation
from jaxnets.data.prepare import Standardize
from jaxnets.tasks.base import Task

# The dim of a leaf that runs over the outputs, and for each of ours the number of theirs.
Orders = dict[str, tuple[int, list[int]]]


def compare_names(
    mine: Preparation, theirs: Preparation | None, *, task: Task, batch: Batch, fresh: Collection[str]
) -> tuple[Orders, str]:
    """How leaves from another run have to be reordered, and a sentence about the differences ("" for none).

    Args:
        mine: the preparation of this run's data. theirs: that of the other run's data; None if it was not saved.
        task: this run's, bound.
        batch: shapes of one of its batches.
        fresh: paths of the leaves that are not taken.

    Raises:
        CheckpointError: the classes, tokens or features of the two are others, and the leaves that depend on them are taken.
    """
    if theirs is None:
        return {}, ""
    said = [*_other_features(mine, theirs), *_other_scales(mine, theirs)]
    if mine.class_names == theirs.class_names and _tokens(mine) == _tokens(theirs):
        return {}, "; ".join(said)
    if _tokens(mine) and _tokens(theirs) and _tokens(mine) != _tokens(theirs):
        _refuse("tokens", _tokens(mine), _tokens(theirs), "give the data the vocabulary or tokenizer of that run")
    if mine.kind != theirs.kind or mine.class_names == theirs.class_names:
        return {}, "; ".join(said)
    leaves = output_leaves(task, batch)
    taken = {path: dim for path, dim in leaves.items() if path not in fresh}
    if leaves and not taken:
        return {}, "; ".join([*said, f"its classes were others ({_listed(theirs.class_names)}), the outputs are new"])
    if sorted(mine.class_names) == sorted(theirs.class_names) and taken:
        places = [theirs.class_names.index(name) for name in mine.class_names]
        said.append(f"the outputs were brought into this run's order of classes ({_listed(mine.class_names)})")
        return {path: (dim, places) for path, dim in taken.items()}, "; ".join(said)
    patterns = " ".join(sorted({path.rsplit("/", 1)[0] + "/*" for path in taken})) or "PATTERN"
    _refuse("classes", mine.class_names, theirs.class_names, f"begin with new outputs, --warm-start.fresh {patterns}")
    raise AssertionError


def output_leaves(task: Task, batch: Batch) -> dict[str, int]:
    """The leaves of `params` and `model_state` that have a number for each output of the model, and the dim that runs over
    the outputs; {} for a model whose outputs cannot be set."""
    count = getattr(task.model, "outputs", None)
    if not isinstance(count, int):
        return {}
    found = []
    for outputs in (count, count + 1):
        model = task.model.clone(outputs=outputs)
        shapes = jax.eval_shape(
            lambda model=model: model.init(jax.random.key(0), task.inputs_of(_zeros(batch)), train=False)
        )
        found.append({path: leaf.shape for path, leaf in leaf_paths(shapes).items()})
    leaves = {}
    for path, shape in found[0].items():
        dims = [dim for dim, (a, b) in enumerate(zip(shape, found[1].get(path, shape), strict=True)) if a != b]
        if dims:
            leaves[path if path.startswith("params/") else f"model_state/{path}"] = dims[0]
    return leaves


def _zeros(batch: Batch) -> Batch:
    return jax.tree.map(lambda a: jax.numpy.zeros(a.shape, a.dtype), batch)


def reordered(path: str, leaf: Any, orders: Mapping[str, tuple[int, list[int]]]) -> Any:
    """A leaf of the other run in the order of this run's outputs."""
    if path not in orders:
        return leaf
    dim, places = orders[path]
    return np.take(np.asarray(leaf), places, axis=dim)


def _tokens(preparation: Preparation) -> tuple[str, ...]:
    return preparation.tokens.names if preparation.tokens else preparation.class_names * (preparation.kind == "token")


def _features(preparation: Preparation) -> tuple[str, ...]:
    return preparation.columns.feature_names if preparation.columns else preparation.feature_names


def _other_features(mine: Preparation, theirs: Preparation) -> list[str]:
    here, there = _features(mine), _features(theirs)
    if here == there or not here or not there:
        return []
    if sorted(here) == sorted(there):
        _refuse("features", here, there, "bring the columns into the order of that run")
    return [f"its features were others ({_listed(there)}; here {_listed(here)})"]


def _other_scales(mine: Preparation, theirs: Preparation) -> list[str]:
    """Differences of scales: the same inputs or targets have other numbers."""
    said = []
    if (
        mine.prepare != theirs.prepare
        and isinstance(mine.prepare, Standardize)
        and isinstance(theirs.prepare, Standardize)
    ):
        said.append("its inputs were scaled by other means and deviations")
    if (mine.target_means, mine.target_deviations) != (theirs.target_means, theirs.target_deviations):
        said.append("its targets were scaled by other means and deviations")
    return said


def _refuse(what: str, here: Sequence[str], there: Sequence[str], remedy: str) -> None:
    raise CheckpointError(
        f"warm_start takes weights that were trained with other {what}: {_listed(there)} there, {_listed(here)} here; {remedy}"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", ... ({len(names)})" if len(names) > 8 else "")
