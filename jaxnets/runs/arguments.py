"""Converts the arguments of `jaxnets.fit` and similar functions to an experiment, its data and the initial weights."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxnets.checkpoints.initial import Initial
from jaxnets.checkpoints.warm_start import WarmStart
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.data.augment import as_augment
from jaxnets.data.dataset import Dataset, add_to_digest
from jaxnets.data.order import steps_in
from jaxnets.data.sources.memory import InMemory
from jaxnets.data.validation import SHARE
from jaxnets.interop.functions import Functions
from jaxnets.optim.given import ByPath, Frozen, as_optimizer
from jaxnets.optim.optimizers import AdamW, Optimizer
from jaxnets.optim.plateau import plateau_of
from jaxnets.runs.given_data import given_data
from jaxnets.runs.lengths import length
from jaxnets.runs.run import Run
from jaxnets.tasks.base import Task
from jaxnets.tasks.own import Own
from jaxnets.tasks.supervised import Supervised
from jaxnets.training.early_stop import EarlyStop


def as_experiment(
    model: Any,
    data: Any,
    *,
    test: Any = None,
    validation: Any = None,
    epochs: float | None = None,
    steps: int | str | None = None,
    batch_size: int | None = None,
    optimizer: Any = None,
    loss: Any = None,
    metrics: Any = None,
    class_weight: Any = None,
    augment: Any = None,
    stop: EarlyStop | None = None,
    initial: Any = None,
    train_only: str | None = None,
    freeze: str | None = None,
    seed: int = 0,
    **options: Any,
) -> tuple[Experiment, Dataset, Initial | None]:
    """The experiment, its data and the given initial weights that `fit` trains with these arguments."""
    if epochs is not None and steps is not None:
        raise UsageError(f"give either epochs or steps, not both (got epochs={epochs}, steps={steps})")
    if isinstance(model, tuple):
        model = _from_functions(model)
    optimizer = _partly(AdamW() if optimizer is None else as_optimizer(optimizer), train_only, freeze)
    chooses = bool((stop and stop.patience) or getattr(options.get("keep"), "best", "") or plateau_of(optimizer))
    arrays = isinstance(data, tuple | list) and len(data) in (2, 3)
    if arrays and validation is None and chooses:
        validation = SHARE  # set aside before the scales are computed, so that they are those of the training examples
    dataset = given_data(model, data, test, validation, options, loss)
    if augment is not None:
        dataset = dataclasses.replace(dataset, augment=as_augment(augment))
    examples = dataset.card.examples["train"]
    if batch_size is None:
        batch_size = 128 if examples >= 10_000 else min(32, examples)
        shares = 1 if "mesh" in options else jax.device_count()
        batch_size -= batch_size % shares if batch_size > shares else 0  # every device gets the same number
    if steps is None:
        steps = steps_in(10 if epochs is None else epochs, examples, batch_size)
        options.setdefault("eval_every", steps_in(1, examples, batch_size))
    # For a duration it is only approximate: the run computes it after a validation split is set aside.
    count = length(steps, dataset, batch_size) if isinstance(steps, str) else steps
    if chooses and isinstance(count, int):
        options.setdefault("eval_every", max(1, count // 20))
    if stop is not None:
        options["stop"] = stop
    if not arrays and validation is not None:
        options["validation"] = validation
    options.setdefault("log_every", max(1, count // 50) if isinstance(count, int) else 1)
    task, begin = _task(model, dataset, loss, metrics, class_weight), _initial(initial, options)
    experiment = Experiment(
        task=task,
        data=InMemory(dataset.name, _fingerprint(dataset)),
        optimizer=optimizer,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        **options,
    )
    return experiment, dataset, begin


def class_weights(dataset: Dataset, wanted: Mapping[Any, float] | str) -> tuple[float, ...]:
    """A weight for each class of a data set, from `class_weight` of `fit`; raises `UsageError` if it does not fit."""
    names = dataset.card.class_names
    soft = dataset.card.target_kind == "distribution"
    if dataset.card.target_kind != "class" and not soft:
        raise UsageError(f"class_weight is for classes, but the targets of {dataset.name!r} are not; leave it out")
    if isinstance(wanted, str):
        if wanted != "balanced":
            raise UsageError(f"class_weight is a dict or 'balanced', got {wanted!r}")
        targets = np.asarray(dataset.train["targets"])
        counts = targets.sum(axis=0) if soft else np.bincount(targets.astype(int), minlength=len(names))
        return tuple(float(counts.sum() / (len(names) * max(1, count))) for count in counts)
    weights = [1.0] * len(names)
    for key, weight in wanted.items():
        place = names.index(str(key)) if str(key) in names else key
        if not isinstance(place, int | np.integer) or not 0 <= place < len(names):
            raise UsageError(
                f"class_weight has {key!r}, which is not a class of {dataset.name!r}: {', '.join(names[:8])}"
            )
        if not (isinstance(weight, int | float) and 0 <= weight < math.inf):
            raise UsageError(f"class_weight[{key!r}] is a number, at least 0; got {weight!r}")
        weights[int(place)] = float(weight)
    return tuple(weights)


def _task(model: Any, dataset: Dataset, loss: Any, metrics: Any, class_weight: Any) -> Task:
    """The task of a bare model, with the loss, metrics and class weights that are given."""
    task = model if isinstance(model, Task) else Supervised(model=model)
    if loss is None and not metrics and class_weight is None:
        return task
    weights = () if class_weight is None else class_weights(dataset, class_weight)
    measures = tuple((metrics or {}).items())
    return Own(model=task.model, inner=task, objective=loss, measures=measures, class_weight=weights)


def _from_functions(pair: tuple[Any, ...]) -> nn.Module:
    """A model from `(init, apply)`."""
    if len(pair) != 2 or not all(map(callable, pair)):
        raise UsageError(f"a model as a tuple is two functions, (init, apply), got {pair!r}")
    return Functions(*pair)


def _partly(optimizer: Optimizer, train_only: str | None, freeze: str | None) -> Optimizer:
    """The optimizer for a part of the parameters; the others have no moments and are not changed."""
    if train_only is not None and freeze is not None:
        raise UsageError(f"give either train_only or freeze, not both (got {train_only!r} and {freeze!r})")
    fixed = Frozen()
    if train_only is not None:
        return ByPath(((train_only, optimizer), (".*", fixed)))
    return optimizer if freeze is None else ByPath(((freeze, fixed), (".*", optimizer)))


def _initial(given: Any, options: dict[str, Any]) -> Initial | None:
    """The initial weights from the argument `initial`; the directory of a run becomes the option `warm_start`."""
    if given is None or isinstance(given, Initial):
        return given
    if isinstance(given, str | Path):
        options["warm_start"] = WarmStart(run=str(given))
        return None
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], nn.Module):
        given = given[1]  # a model and its variables, as interop.language_model_from gives them
    variables = given.variables if isinstance(given, Run) else given
    if not isinstance(variables, Mapping):
        raise UsageError(
            f"initial is variables (a dict of arrays), a Run, the directory of a run or an Initial; got {type(given).__name__}"
        )
    return Initial(variables)


def _fingerprint(dataset: Dataset) -> str:
    """The source of the data set with its validation split, which a configuration cannot reproduce."""
    if dataset.validation is None:
        return dataset.fingerprint
    digest = hashlib.sha256(dataset.fingerprint.encode())
    add_to_digest(digest, dataset.validation)
    return digest.hexdigest()[:32]
