"""`jaxnets finetune`: a language model of the Hugging Face library, trained further on a text or on conversations."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxnets.cli import fast_parse
from jaxnets.cli.train import RunOptions
from jaxnets.core.errors import UsageError
from jaxnets.core.files import user_path

CONVERSATIONS = (".jsonl", ".json")
# Learning rates where none is given: of all weights, and of adapters, which begin at zero.
RATE, ADAPTER_RATE = 5e-5, 5e-4


@dataclasses.dataclass(frozen=True)
class FinetuneOptions(RunOptions):
    """Options of `jaxnets finetune`, in addition to those of `train` and the fields of the experiment."""

    lora: int = 0
    """Rank of low-rank adapters; only these are trained. 0: all weights are trained."""
    lora_at: str = ".*"
    """The layers that get adapters: a regular expression for their paths."""
    train_only: str = ""
    """Train only the parameters whose paths match this regular expression."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora < 0:
            raise ValueError(f"lora is a rank, at least 1; got {self.lora}")
        if self.lora and self.train_only:
            raise ValueError("lora trains the adapters alone; leave train_only out")


def run(arguments: Sequence[str]) -> int:
    """`jaxnets finetune FOLDER DATA [flags]`."""
    if len(arguments) < 2 or arguments[0].startswith("-") or arguments[1].startswith("-"):
        raise UsageError(
            "`jaxnets finetune` takes the folder of a model (config.json, safetensors, tokenizer) and a file: a text, or "
            "conversations as .jsonl"
        )
    folder, path, *flags = arguments
    for place in (user_path(folder) / "config.json", user_path(path)):
        if not os.path.isfile(place):
            raise UsageError(f"there is no file {str(place)!r}; check the path")
    from jaxnets.checkpoints.initial import Initial
    from jaxnets.config.find import Loaded
    from jaxnets.interop import language_model_from

    model, variables = language_model_from(folder)
    text = " ".join(flags).replace("=", " ")
    adapters = "--lora " in text and "--lora 0" not in text
    experiment = first_experiment(folder, path, model, ADAPTER_RATE if adapters else RATE)
    name = f"{Path(folder).name}-{Path(path).stem}"
    loaded = Loaded(name, experiment, None, f"{Path(folder).name} on {Path(path).name}")
    experiment, options = fast_parse.with_flags(loaded, f"jaxnets finetune {folder} {path}", flags, FinetuneOptions)
    from jaxnets.cli.train import run as train

    return train(loaded, _for_a_part(experiment, options), options, initial=Initial(variables))


def first_experiment(folder: str, path: str, model: Any, rate: float = RATE) -> Any:
    """The experiment of a model's folder and a file, before flags."""
    from jaxnets import data, optim, tasks
    from jaxnets.config.experiment import Experiment

    length = min(model.length, 256)
    kind = data.Chat if path.endswith(CONVERSATIONS) else data.Text
    schedule = optim.WarmupCosine(warmup=0.05)
    return Experiment(
        task=tasks.NextToken(model=model),
        data=kind(
            path=path, tokens=os.path.join(".", folder), length=length
        ),  # "gpt2" alone is the name of a tokenizer
        optimizer=optim.AdamW(learning_rate=rate, weight_decay=0.0, clip_norm=1.0, schedule=schedule),
        steps=300,
        batch_size=8,
        eval_every=100,
        eval_batch_size=32,
        log_every=10,
    )


def _for_a_part(experiment: Any, options: FinetuneOptions) -> Any:
    """The experiment with adapters, or with some parameters frozen."""
    from jaxnets import models
    from jaxnets.optim.given import ByPath, Frozen

    pattern = options.train_only
    if options.lora:
        pattern = ".*/lora_.*"
        adapted = models.LoRA(experiment.task.model, rank=options.lora, at=options.lora_at)
        experiment = dataclasses.replace(experiment, task=experiment.task.with_model(adapted))
    if not pattern:
        return experiment
    only = ByPath(((pattern, experiment.optimizer), (".*", Frozen())))
    return dataclasses.replace(experiment, optimizer=only)
