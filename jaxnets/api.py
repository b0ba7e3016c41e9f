"""In a notebook: `check(model, data)` before training, `fit(model, data)` to train."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn

from jaxnets.callbacks.callback import Callback
from jaxnets.data.validation import Validation
from jaxnets.preflight.check import check_experiment
from jaxnets.preflight.finding import CheckReport
from jaxnets.preflight.show import progress_line
from jaxnets.report.console import ProgressKind
from jaxnets.runs.arguments import as_experiment
from jaxnets.runs.find_rate import FoundRate, find_rate
from jaxnets.runs.run import Run
from jaxnets.runs.train import train
from jaxnets.tasks.base import Task
from jaxnets.training.early_stop import EarlyStop


def fit(
    model: nn.Module | Task | tuple[Callable[..., Any], Callable[..., Any]],
    data: Any,
    *,
    test: Any = None,
    validation: float | tuple[Any, ...] | Validation | None = None,
    epochs: float | None = None,
    steps: int | str | None = None,
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

    Your arrays are never changed, and their memory is never donated to the device. Running it again with the same arguments
    gives the same result, bit for bit on the same machine.

    Values that the module sows in the collection "losses" are added to the training loss.

    Args:
        model: a Linen module called as `model(inputs)`, a pair of pure functions `init(key, inputs)` and
            `apply(parameters, inputs)`, or a task that holds a model (`interop.from_equinox` and `from_nnx` adapt modules).
            Its call may have an argument `train`, `training`, `is_training` or `deterministic`. For a bare module, integer
            (or text) targets make it a classification and real targets a regression.
        data: a `Dataset` (see `load` and `from_arrays`), or arrays: (inputs, targets), or (inputs, targets, weights) if
            examples have different weights; or an object that gives examples by number (see `data.from_source`). Inputs of a
            model that takes several are a dict of arrays by the names of its call's arguments, or a tuple of arrays in their
            order.
        test: held-out arrays, if `data` are arrays, or a second such object; without it a fifth of the data is set aside.
            The test split is measured once, at the end, if there is a validation split.
        validation: the split for early stopping and `keep.best`: a share of the training examples, or arrays, or a
            `Validation`. By default the validation split of the data; if they have none and the run makes choices, a tenth of
            the training examples.
        epochs: passes over the training data; 10 unless `steps` is given.
        steps: optimizer steps, instead of epochs; or a duration such as "10ep", "50k ex" or "2M tok".
        batch_size: examples in each step; by default 128, or 32 for fewer than 10,000 examples.
        optimizer: one of `jaxnets.optim`, any Optax transformation (`optax.lion(1e-4)`), a name ("lion"), or a dict of path
            patterns and these (`{"body/.*": optax.set_to_zero(), ".*": "adamw"}`); AdamW with warm-up and cosine by default.
        loss: a function `(outputs, batch)` of the model's outputs and the batch (`batch["targets"]`, ...) that returns one
            value for each example or a `Mean`; by default that of the task.
        metrics: functions of the same form, or `tasks.F1()`, `tasks.AUROC()` ..., by the name under which they are logged.
        class_weight: weight of each class in the loss, by its name or number (others have 1); "balanced": the same total
            weight for every class.
        augment: random changes to training examples, instead of those of `data`: an `Augment` or another of `data.augment`, a
            tuple of them, or a function `(key, inputs) -> inputs` of one example.
        stop: early stopping: `EarlyStop("f1", patience=3)`. The run then has the weights of the best evaluation.
        initial: initial weights: variables as a module's `init` returns them, a `Run`, the directory of a run, or
            `Initial(variables, ...)` if some leaves are to be fresh, ignored or renamed.
        train_only: a regular expression for whole paths of parameters (`output/.*`); all others are frozen.
        freeze: a regular expression for whole paths of the parameters that are frozen.
        seed: root of all randomness.
        hooks: callbacks, called during training (see `Callback` and `jaxnets.callbacks`).
        loggers: where the log is repeated: "csv", "tensorboard", "wandb", "mlflow", or objects of `report.loggers`.
        run_dir: directory of checkpoints, log and report; None keeps everything in memory.
        overwrite: replace a run that is in `run_dir` already.
        progress: "bar", "lines", "none", or "auto".
        **options: any other field of `Experiment`: mesh, precision, micro_batches, eval_every, ...

    Raises:
        JaxnetsError: bad arguments or data, with the value, the rule and what to do.
    """
    experiment, dataset, begin = as_experiment(
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


def check(
    model: nn.Module | Task | tuple[Callable[..., Any], Callable[..., Any]],
    data: Any,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    examples: int = 16,
    seconds: float = 6.0,
    progress: ProgressKind = "auto",
    **arguments: Any,
) -> CheckReport:
    """Find problems before training: shapes, first loss, mixed examples, leaks, dead units, rates, and so on.

    The report prints as text and is a table in a notebook; `report.findings` holds the measurement of each check, its colour
    and the remedy; `report.passed` is true if nothing is red. Nothing is trained or written.

    Args:
        model: as for `fit`.
        data: as for `fit`.
        only: names of the checks to run (`jaxnets.preflight.CHECKS`); (): all.
        skip: names of checks to leave out, such as those that a model violates by design.
        examples: number of training examples to use, at least 4.
        seconds: the time limit for memorising these, without compilation.
        progress: "none" prints nothing; else a line names the running check.
        **arguments: the other arguments of `fit`: optimizer, loss, batch_size, ...; those for directories, hooks and
            loggers have no effect.

    Raises:
        JaxnetsError: arguments that `fit` also refuses.
    """
    used = {
        name: given for name, given in arguments.items() if name not in ("hooks", "loggers", "run_dir", "overwrite")
    }
    experiment, dataset, begin = as_experiment(model, data, **used)
    with progress_line(progress) as say:
        return check_experiment(
            experiment,
            dataset=dataset,
            initial=begin,
            only=only,
            skip=skip,
            examples=examples,
            seconds=seconds,
            say=say,
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

    It runs short trainings from fresh weights, in which the rate grows with each batch. Their results are discarded, and the
    arguments are not changed. See `jaxnets.runs.find_rate.find_rate`.

    Args:
        model: as in `fit`.
        data: as in `fit`.
        low: the first rate; a multiple of the optimizer's own rate if that is unknown (an Optax transformation).
        high: the last rate.
        tries: rates in between, each for one batch.
        repeats: tests with other weights and batches.
        **options: the other arguments of `fit` that define the training: optimizer, batch_size, loss, initial, ...
    """
    experiment, dataset, begin = as_experiment(model, data, **options)
    return find_rate(experiment, dataset, low=low, high=high, tries=tries, repeats=repeats, initial=begin)
