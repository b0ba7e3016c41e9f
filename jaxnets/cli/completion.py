"""`jaxnets completion`: scripts that complete a command line in bash, zsh and fish.

The scripts call `jaxnets completion words WORD ...` with what is typed so far; it prints the candidates for the last word.
"""

import os
from collections.abc import Sequence

from jaxnets.cli.help import VERBS
from jaxnets.core.errors import UsageError

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
    ("train", "summary", "shard"),
    ("evaluate", "predict", "generate", "export", "compare", "clean", "copy"),
)


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
    """What may stand in place of the last of the words that follow `jaxnets`."""
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
    import dataclasses

    if before[0] in OF_CONFIGURATIONS and len(before) > 1:
        from jaxnets.cli.fast_parse import stand_ins
        from jaxnets.cli.main import OPTIONS

        with stand_ins():
            from jaxnets import config

            names = [
                *_fields(config.load(before[1]).experiment),
                *(f.name for f in dataclasses.fields(OPTIONS[before[0]])),
            ]
    elif before[0] == "predict":
        from jaxnets.cli.predict import PredictOptions

        names = [field.name for field in dataclasses.fields(PredictOptions)]
    elif before[0] in ("runs", "compare"):
        from jaxnets.cli.runs import CompareOptions, RunsOptions

        kind = {"runs": RunsOptions, "compare": CompareOptions}[before[0]]
        names = [field.name for field in dataclasses.fields(kind)]
    else:
        names = []
    return [f"--{name.replace('_', '-')}" for name in (*names, "help")]


def _fields(value: object, prefix: str = "") -> list[str]:
    """Dotted names of the plain fields of nested dataclasses."""
    import dataclasses

    found = []
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        inner = getattr(value, field.name, None)
        name = f"{prefix}{field.name}"
        nested = dataclasses.is_dataclass(inner) and not isinstance(inner, type)
        found += (
            _fields(inner, f"{name}.")
            if nested
            else [name]
            if field.init and field.name not in ("parent", "name")
            else []
        )
    return found
