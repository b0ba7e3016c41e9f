"""Training in a notebook: `fit(model, data)`."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np

from jaxnets.callbacks.callback import Callback
from jaxnets.checkpoints.initial import Initial
from jaxnets.checkpoints.warm_start import WarmStart
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.data.augment import as_augment
from jaxnets.data.dataset import Dataset, add_to_digest
from jaxnets.data.order import steps_in
from jaxnets.data.sources.memory import InMemory
from jaxnets.data.validation import SHARE, Validation
from jaxnets.interop.functions import Functions
from jaxnets.optim.given import ByPath, Frozen, as_optimizer
from jaxnets.optim.optimizers import AdamW, Optimizer
from jaxnets.optim.plateau import plateau_of
from jaxnets.report.console import ProgressKind
from jaxnets.runs.find_rate import FoundRate, find_rate
from jaxnets.runs.given_data import given_data
from jaxnets.runs.run import Run
from jaxnets.runs.train import train
from jaxnets.tasks.base import Task
from jaxnets.tasks.own import Own
from jaxnets.tasks.supervised import Supervised
from jaxnets.training.early_stop import EarlyStop


def fit(
    model: nn.Module | Task | tuple[Callable[..., Any], Callable[..., Any]],
    data: Any,
    *,
    test: Any = None,
    validation: float | tuple[Any, ...] | Validation | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    optimizer: Any = None,
    loss: Callable[[Any, Any], Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
    augment: Any = None,
    stop: EarlyStop | None = None,
    initial: Any = None,
    train_only: str | None = None,
    freeze: str | None = None,
    seed: int = 0,
    hooks: Sequence[Callback] = (),
    loggers: Sequence[Any] = (),
    run_dir: str | Path | None = None,
    overwrite: bool = False,
    progress: ProgressKind = "auto",
    **options: Any,
) -> Run:
    """Train a model on data and return the run: its weights, history and predictions.

    Your arrays stay yours: they are never changed and never given to the device to keep. Running it again with the same
    arguments gives the same result, bit for bit on the same machine.

    What the module sows in the collection "losses" is added to the training loss.

    Args:
        model: a Linen module called as `model(inputs)`, a pair of pure functions `init(key, inputs)` and
            `apply(parameters, inputs)`, or a task that holds a model (`interop.from_equinox` and `from_nnx` adapt modules).
            Its call may have an argument `train`, `training`, `is_training` or `deterministic`. For a bare module, integer
            (or text) targets make it a classification and real targets a regression.
        data: a `Dataset` (see `load` and `from_arrays`), or arrays: (inputs, targets), or (inputs, targets, weights) where
            examples count differently; or an object that gives examples by number (see `data.from_source`). Inputs of a model
            that takes several are a dict of arrays by the names of its call's arguments, or a tuple of arrays in their order.
        test: held-out arrays, where `data` are arrays, or a second such object; without it a fifth of the data is set aside.
            The test split is measured once, at the end, if there is a validation split.
        validation: what early stopping and `keep.best` look at: a share of the training examples, or arrays, or a
            `Validation`. By default the validation split that the data have; where something is chosen and they have none,
            a tenth of the training examples.
        epochs: passes over the training data; 10 unless `steps` says otherwise.
        steps: optimizer steps, instead of epochs.
        batch_size: examples in each step; by default 128, or 32 where there are fewer than 10,000 examples.
        optimizer: one of `jaxnets.optim`, any Optax transformation (`optax.lion(1e-4)`), a name ("lion"), or a dict of path
            patterns and these (`{"body/.*": optax.set_to_zero(), ".*": "adamw"}`); AdamW with warm-up and cosine by default.
        loss: a function `(outputs, batch)` of what the model returns and of the batch (`batch["targets"]`, ...), that returns
            one value for each example or a `Mean`; by default that of the task.
        metrics: functions of the same kind, or `tasks.F1()`, `tasks.AUROC()` ..., by the name under which they are logged.
        class_weight: weight of each class in the loss, by its name or number (others have 1); "balanced": the same total
            weight for every class.
        augment: random changes to training examples, in place of those of `data`: an `Augment` or another of `data.augment`, a
            tuple of them, or a function `(key, inputs) -> inputs` of one example.
        stop: when to end early: `EarlyStop("f1", patience=3)`. The run then gives the weights of the best evaluation.
        initial: weights to begin with: variables as a module's `init` returns them, a `Run`, the directory of a run, or
            `Initial(variables, ...)` where some leaves are to be fresh, ignored or renamed.
        train_only: a regular expression for whole paths of parameters (`output/.*`); all others keep their bits.
        freeze: the other way round: those that match keep their bits.
        seed: root of all randomness.
        hooks: callbacks, called while the run trains (see `Callback` and `jaxnets.callbacks`).
        loggers: where the log is repeated: "csv", "tensorboard", "wandb", "mlflow", or objects of `report.loggers`.
        run_dir: where to keep checkpoints, log and report; None keeps everything in memory.
        overwrite: replace a run that is in `run_dir` already.
        progress: "bar", "lines", "none", or "auto".
        **options: any other field of `Experiment`: mesh, precision, micro_batches, eval_every, ...

    Raises:
        JaxnetsError: bad arguments or data, with the value, the rule and what to do.
    """
    experiment, dataset, begin = experiment_of(
        model,
        data,
        test=test,
        validation=validation,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        loss=loss,
        metrics=metrics,
        class_weight=class_weight,
        augment=augment,
        stop=stop,
        initial=initial,
        train_only=train_only,
        freeze=freeze,
        seed=seed,
        **options,
    )
    return train(
        experiment,
        dataset=dataset,
        run_dir=run_dir,
        overwrite=overwrite,
        initial=begin,
        hooks=hooks,
        loggers=loggers,
        progress=progress,
    )


def find_lr(
    model: Any,
    data: Any,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    tries: int = 150,
    repeats: int = 3,
    **options: Any,
) -> FoundRate:
    """The learning rate to train with, by range tests: `find_lr(model, data, optimizer="lion").rate`.

    Short trainings whose rate grows with each batch, from fresh weights each; nothing of them is kept, and what is given is
    not changed. See `jaxnets.runs.find_rate.find_rate`.

    Args:
        model: as in `fit`.
        data: as in `fit`.
        low: the first rate; a multiple of the optimizer's own where that does not say its rate (an Optax transformation).
        high: the last rate.
        tries: rates in between, each for one batch.
        repeats: tests with other weights and batches.
        **options: the other arguments of `fit` that say what is trained: optimizer, batch_size, loss, initial, ...
    """
    experiment, dataset, begin = experiment_of(model, data, **options)
    return find_rate(experiment, dataset, low=low, high=high, tries=tries, repeats=repeats, initial=begin)


def experiment_of(
    model: Any,
    data: Any,
    *,
    test: Any = None,
    validation: Any = None,
    epochs: float | None = None,
    steps: int | None = None,
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
    """What `fit` trains with these arguments: the experiment, its data, and the weights that are given to begin with."""
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
        batch_size -= batch_size % shares if batch_size > shares else 0  # every device gets as many
    if steps is None:
        steps = steps_in(10 if epochs is None else epochs, examples, batch_size)
        options.setdefault("eval_every", steps_in(1, examples, batch_size))
    elif chooses and isinstance(steps, int):
        options.setdefault("eval_every", max(1, steps // 20))
    if stop is not None:
        options["stop"] = stop
    if not arrays and validation is not None:
        options["validation"] = validation
    options.setdefault("log_every", max(1, steps // 50) if isinstance(steps, int) else 1)
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
    """A weight for each class of a data set, from `class_weight` of `fit`; raises `UsageError` where it does not fit."""
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
            raise UsageError(f"class_weight has {key!r}, which is no class of {dataset.name!r}: {', '.join(names[:8])}")
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
    """What `initial` means; the directory of a run becomes the option `warm_start`."""
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
    """That of the data set, with the validation split, which a configuration cannot find again."""
    if dataset.validation is None:
        return dataset.fingerprint
    digest = hashlib.sha256(dataset.fingerprint.encode())
    add_to_digest(digest, dataset.validation)
    return digest.hexdigest()[:32]
