"""Training in a notebook: `fit(model, data)`."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import flax.linen as nn

from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError, did_you_mean
from jaxnets.data.arrays import from_arrays
from jaxnets.data.dataset import Dataset
from jaxnets.data.sources.memory import InMemory
from jaxnets.optim.given import as_optimizer
from jaxnets.optim.optimizers import AdamW
from jaxnets.report.console import ProgressKind
from jaxnets.runs.train import Run, train
from jaxnets.tasks.base import Task
from jaxnets.tasks.supervised import Supervised


def fit(
    model: nn.Module | Task,
    data: Dataset | tuple[Any, ...],
    *,
    test: tuple[Any, ...] | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    optimizer: Any = None,
    seed: int = 0,
    run_dir: str | Path | None = None,
    overwrite: bool = False,
    progress: ProgressKind = "auto",
    **options: Any,
) -> Run:
    """Train a model on data and return the run: its weights, history and predictions.

    Your arrays stay yours: they are never changed and never given to the device to keep. Running it again with the same
    arguments gives the same result, bit for bit on the same machine.

    Args:
        model: a Linen module called as `model(inputs, train=...)`, or a task that holds one. For a bare module,
            integer (or text) targets make it a classification and real targets a regression.
        data: a `Dataset` (see `load` and `from_arrays`), or arrays: (inputs, targets), or (inputs, targets, weights) where
            examples count differently.
        test: held-out arrays, where `data` are arrays; without them a fifth of the data is set aside.
        epochs: passes over the training data; 10 unless `steps` says otherwise.
        steps: optimizer steps, instead of epochs.
        batch_size: examples in each step; by default 128, or 32 where there are fewer than 10,000 examples.
        optimizer: one of `jaxnets.optim`, any Optax transformation (`optax.lion(1e-4)`), a name ("lion"), or a dict of path
            patterns and these (`{"body/.*": optax.set_to_zero(), ".*": "adamw"}`); AdamW with warm-up and cosine by default.
        seed: root of all randomness.
        run_dir: where to keep checkpoints, log and report; None keeps everything in memory.
        overwrite: replace a run that is in `run_dir` already.
        progress: "bar", "lines", "none", or "auto".
        **options: any other field of `Experiment`: mesh, precision, micro_batches, eval_every, ...

    Raises:
        JaxnetsError: bad arguments or data, with the value, the rule and what to do.
    """
    if epochs is not None and steps is not None:
        raise UsageError(f"give either epochs or steps, not both (got epochs={epochs}, steps={steps})")
    dataset = _check(model, data, test, options)
    examples = dataset.card.examples["train"]
    if batch_size is None:
        batch_size = 128 if examples >= 10_000 else min(32, examples)
    if steps is None and not 0 < (10 if epochs is None else epochs) < math.inf:
        raise UsageError(f"epochs is a positive number, got {epochs}")
    if steps is None:
        per_epoch = max(1, examples // max(1, batch_size))
        steps = math.ceil((10 if epochs is None else epochs) * per_epoch)
        options.setdefault("eval_every", per_epoch)
    options.setdefault("log_every", max(1, steps // 50) if isinstance(steps, int) else 1)
    task = model if isinstance(model, Task) else Supervised(model=model)
    experiment = Experiment(
        task=task,
        data=InMemory(dataset.name, dataset.fingerprint),
        optimizer=AdamW() if optimizer is None else as_optimizer(optimizer),
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        **options,
    )
    return train(experiment, dataset=dataset, run_dir=run_dir, overwrite=overwrite, progress=progress)


def _check(model: Any, data: Any, test: Any, options: dict[str, Any]) -> Dataset:
    """The data as a `Dataset`; raises `UsageError` where the arguments are not what they should be."""
    if isinstance(data, Dataset):
        if test is not None:
            raise UsageError("test goes with arrays; a Dataset has its own test split")
        dataset = data
    elif isinstance(data, tuple | list) and len(data) in (2, 3):
        kind: Any = model.given_targets if isinstance(model, Task) else "auto"
        dataset = from_arrays(data[0], data[1], weights=data[2] if len(data) == 3 else None, test=test, kind=kind)
    else:
        raise UsageError(
            f"data is a Dataset or arrays, (inputs, targets) or (inputs, targets, weights), got {type(data).__name__}"
        )
    if not isinstance(model, nn.Module | Task):
        hint = "; add parentheses to make one" if isinstance(model, type) else ""
        raise UsageError(f"model is a Linen module or a task, got {model!r}{hint}")
    unknown = sorted(set(options) - {field.name for field in dataclasses.fields(Experiment)})
    if unknown:
        known = (field.name for field in dataclasses.fields(Experiment))
        raise UsageError(f"fit has no argument {unknown[0]!r}. {did_you_mean(unknown[0], known)}")
    return dataset
