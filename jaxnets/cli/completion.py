"""`jaxnets completion`: scripts that complete a command line in bash, zsh and fish.

The scripts call `jaxnets completion words WORD ...` with what is typed so far; it prints the candidates for the last word.
"""

import dataclasses
import importlib
import json
import os
from collections.abc import Sequence
from typing import Any

from jaxnets.cli.help import VERBS
from jaxnets.core.errors import UsageError
from jaxnets.core.files import user_path

BASH = """_jaxnets() {
  local IFS=$'\\n'
  COMPREPLY=($(jaxnets completion words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _jaxnets jaxnets
"""
ZSH = """_jaxnets() {
  local -a found
  found=("${(@f)$(jaxnets completion words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -a found
  [[ -n "$found" ]] || _files
}
compdef _jaxnets jaxnets
"""
FISH = """complete -c jaxnets -a '(jaxnets completion words (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
"""
SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
# Commands whose first argument is a configuration, and those whose first is a run.
OF_CONFIGURATIONS, OF_RUNS = (
    ("train", "check", "summary", "shard", "estimate", "plan", "find-lr", "find-batch", "sweep", "curve"),
    ("evaluate", "diagnose", "predict", "generate", "export", "compare", "clean", "copy"),
)
# The module of `jaxnets.cli` and the dataclass in it that holds the flags of a command.
FLAGS = {
    "clean": ("tidy", "CleanOptions"),
    "compare": ("runs", "CompareOptions"),
    "diagnose": ("diagnose", "DiagnoseOptions"),
    "export": ("export", "ExportOptions"),
    "predict": ("predict", "PredictOptions"),
    "runs": ("runs", "RunsOptions"),
    "ui": ("ui", "UiOptions"),
}


def run(arguments: Sequence[str]) -> int:
    """`jaxnets completion SHELL`, and `jaxnets completion words WORD ...` for its scripts."""
    if arguments and arguments[0] == "words":
        print("\n".join(candidates(arguments[1:])))
        return 0
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise UsageError(f"`jaxnets completion` takes a shell: {', '.join(SHELLS)}")
    print(SHELLS[arguments[0]], end="")
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """The candidates for the last of the words that follow `jaxnets`."""
    *before, last = words or [""]
    if not before:
        found = list(VERBS)
    elif last.startswith("-"):
        found = _flags(before)
    elif before[0] in OF_CONFIGURATIONS and len(before) == 1:
        from jaxnets.config.find import available

        found = [*available(), *_runs()]
    elif before[0] in OF_RUNS and (len(before) == 1 or before[0] == "compare"):
        found = _runs()
    elif before[0] == "ckpt":
        from jaxnets.cli.checkpoints import VERBS as OF_CHECKPOINTS

        found = list(OF_CHECKPOINTS) if len(before) == 1 else _runs()
    elif before == ["completion"]:
        found = list(SHELLS)
    else:
        found = []
    return [word for word in found if word.startswith(last)]


def _runs() -> list[str]:
    """The runs in `./runs`."""
    if not os.path.isdir("runs"):
        return []
    return [
        f"runs/{e.name}"
        for e in sorted(os.scandir("runs"), key=lambda e: e.name)
        if os.path.isfile(f"{e.path}/config.json")
    ]


def _flags(before: Sequence[str]) -> list[str]:
    """The flags of a command, by its own parser."""
    verb = before[0]
    if verb in FLAGS:
        module, options = FLAGS[verb]
        found = _names(getattr(importlib.import_module(f"jaxnets.cli.{module}"), options))
    elif (verb in OF_CONFIGURATIONS and len(before) > 1) or verb in ("generate", "finetune"):
        from jaxnets.cli.fast_parse import stand_ins

        with stand_ins():
            found = _of_experiment(verb, before[1:])
    else:
        found = []
    return [f"--{name.replace('_', '-')}" for name in (*found, "help")]


def _of_experiment(verb: str, given: Sequence[str]) -> list[str]:
    """The flags of a command that depend on a configuration or a run; imported among the stand-ins for JAX."""
    if verb == "generate":
        return _of_generate(given[0]) if given else []
    if verb == "finetune":
        from jaxnets import models
        from jaxnets.cli.finetune import FinetuneOptions, first_experiment

        experiment = first_experiment("", given[1] if len(given) > 1 else "", models.LanguageModel())
        return [*_names(experiment), *_names(FinetuneOptions)]
    from jaxnets import config
    from jaxnets.cli.main import OPTIONS

    return [*_names(config.load(given[0]).experiment), *_names(OPTIONS[verb])]


def _of_generate(run: str) -> list[str]:
    """The `generate` flags of a run, by the names of its task and its model: building these would take too long."""
    from jaxnets import tasks
    from jaxnets.cli import generate
    from jaxnets.cli import generate_pictures as pictures

    try:
        task = json.loads((user_path(run) / "config.json").read_text(encoding="utf-8"))["task"]
        cls = getattr(tasks, task["type"])
        if pictures.makes_pictures(cls):
            return _names(pictures.options_for(cls))
        if task["model"]["type"] == "Seq2SeqTransformer":
            return _names(generate.AnswerOptions)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no run, or one of a class of the user's
        return []
    return _names(generate.TextOptions) if task["type"] == "NextToken" else []


def _names(value: Any, prefix: str = "") -> list[str]:
    """Dotted names of the plain fields of a dataclass and of the dataclasses in it; also `no_NAME` for what is on."""
    found = []
    for field in dataclasses.fields(value):
        inner = field.default if isinstance(value, type) else getattr(value, field.name, None)
        if dataclasses.is_dataclass(inner) and not isinstance(inner, type):
            found += _names(inner, f"{prefix}{field.name}.")
        elif field.init and field.name not in ("parent", "name"):
            found += [f"{prefix}{field.name}"] + [f"{prefix}no_{field.name}"] * (inner is True)
    return found
