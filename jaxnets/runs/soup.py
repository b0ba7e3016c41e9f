"""Soups: the mean of the weights of several runs, or of several checkpoints of one (Wortsman et al. 2022, arXiv:2203.05482).

import jaxnets

runs = [jaxnets.open_run(directory) for directory in ("runs/a", "runs/b", "runs/c")]
soup = jaxnets.soup(runs, greedy=True)
soup.evaluate()
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.core.errors import UsageError
from jaxnets.runs.run import Run


def soup(runs: Sequence[Run], *, greedy: bool = False, statistics_from: int = 100) -> Run:
    """A run whose weights are the mean of those of others, with the data and the history of the first.

    The mean weights are good if the runs started from the same weights (fine-tuned from one model, or checkpoints of one run);
    otherwise they are usually bad, so measure the soup.

    Args:
        runs: runs of the same model; the weights that each of them predicts with are taken.
        greedy: go through the runs, the best one first, and keep one only where the mean does not get worse by it. This
            measures on the validation split of the first run, which must have one, by the task's headline metric.
        statistics_from: batches of training data on which the batch statistics of the soup are measured, where the model has
            some; 0 takes their mean.

    Raises:
        UsageError: no runs, runs of different models, or `greedy` without a validation split.
    """
    if not runs:
        raise UsageError("a soup needs at least one run")
    _check_alike(runs)
    first = runs[0]
    if not greedy:
        return _with(first, _mean([run.variables for run in runs]), statistics_from)
    task = first.parts.task
    if first.parts.validator is None:
        raise UsageError(
            "a greedy soup chooses by a validation split, and the first run has none; train it with validation=0.1, or "
            "leave out greedy"
        )

    def score(variables: Any) -> float:
        value = _with(first, variables, statistics_from).evaluate("validation")[task.headline]
        return value if task.higher_is_better else -value

    order = sorted(runs, key=lambda run: -score(run.variables))
    kept, best = [order[0].variables], score(order[0].variables)
    for run in order[1:]:
        with_it = score(_mean([*kept, run.variables]))
        if with_it >= best:
            kept, best = [*kept, run.variables], with_it
    return _with(first, _mean(kept), statistics_from)


def _check_alike(runs: Sequence[Run]) -> None:
    """Raise `UsageError` if a run has other weights than the first."""
    wanted = {path: leaf.shape for path, leaf in leaf_paths(runs[0].variables).items()}
    for number, run in enumerate(runs[1:], 1):
        shapes = {path: leaf.shape for path, leaf in leaf_paths(run.variables).items()}
        for path in sorted(wanted.keys() | shapes.keys()):
            if wanted.get(path) != shapes.get(path):
                raise UsageError(
                    f"run {number} of the soup is of another model than run 0: {path} has the shape "
                    f"{shapes.get(path, 'absent')} there and {wanted.get(path, 'absent')} in run 0"
                )


def _mean(trees: Sequence[Any]) -> Any:
    """The mean of trees, in the dtype of the first; of integers and keys the first."""

    def mean(*leaves: Any) -> Any:
        if not jnp.issubdtype(leaves[0].dtype, jnp.inexact):
            return leaves[0]
        return (sum(leaves[1:], start=leaves[0]) / len(leaves)).astype(leaves[0].dtype)

    return jax.tree.map(mean, *trees)


def _with(run: Run, variables: Any, batches: int) -> Run:
    """The run with other weights, which measure their own batch statistics."""
    variables = _measured(run, variables, batches)
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    average = variables if jax.tree.leaves(run.state.average) else ()
    state = dataclasses.replace(run.state, params=variables["params"], model_state=rest, average=average)
    return dataclasses.replace(run, state=state, best=None)


def _measured(run: Run, variables: Any, batches: int) -> Any:
    """The variables with the other collections as so many training batches leave them."""
    parts = run.parts
    if len(variables) == 1 or not batches or parts.task.players or parts.dataset.hollow:
        return variables

    def see(variables: Any, payload: Any, step: Any) -> Any:
        batch = parts.feed.batch(payload, 0, step)
        given, batch = parts.recipe.precision.cast(variables, batch)
        state = parts.task.loss(given, batch, jax.random.key(0), True)[1].model_state
        return {name: state.get(name, tree) for name, tree in variables.items()}

    with jax.set_mesh(parts.mesh):
        compiled = jax.jit(see)
        for step in range(batches):
            new = compiled(variables, parts.feed.load(step, 1, 1), jnp.int32(step))
            variables = {**new, "params": variables["params"]}
    return variables
