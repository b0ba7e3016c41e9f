"""`jaxnets compare A B --seeds N`: two configurations trained with the same seeds, and their difference with its interval."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from jaxnets.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class CompareSeedsOptions:
    """Options of `jaxnets compare` for configurations, in addition to the fields of the experiment, which apply to both."""

    seeds: int = 5
    """Runs of each, from the seed of A on; those of one seed are a pair."""
    metric: str = ""
    """The metric to compare; empty: the headline of A's task."""
    directory: str = ""
    """Directory of the results; runs that have a result there are not repeated. Empty: results are not kept."""
    at_once: int = 32
    """Most runs in one program."""
    output: str = ""
    """A .png file for the picture."""
    json: bool = False
    """Print one JSON object instead of the sentences."""

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ValueError(
                f"seeds is at least 2, got {self.seeds}: one pair of runs cannot show how much chance matters"
            )
        if self.at_once < 1:
            raise ValueError(f"at_once is at least 1, got {self.at_once}")
        if self.output and not self.output.endswith(".png"):
            raise ValueError(f"output is a .png file, got {self.output!r}")


def wanted(arguments: Sequence[str]) -> bool:
    """Whether the command is this one, and not that for finished runs."""
    return any(argument.split("=")[0] == "--seeds" for argument in arguments)


def split_flags(flags: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The flags for both, those for A alone (`--a.FIELD`) and those for B alone (`--b.FIELD`), without these beginnings."""
    found: dict[str, list[str]] = {"": [], "a": [], "b": []}
    to = ""
    for word in flags:
        if word.startswith("--"):
            to = word[2] if word[2:4] in ("a.", "b.") else ""
            word = f"--{word[4:]}" if to else word
        found[to].append(word)
    return found[""], found["a"], found["b"]


def run(arguments: Sequence[str], prepare: Callable[[], None]) -> int:
    """Train both and print the result of the pairs; `prepare` sets JAX up."""
    from jaxnets.cli.fast_parse import read_experiment

    first_flag = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    names, flags = arguments[:first_flag], arguments[first_flag:]
    if len(names) not in (1, 2):
        raise UsageError(
            f"`jaxnets compare --seeds` takes one configuration, with flags for B (--b.FIELD), or two; got {len(names)}"
        )
    both, only_a, only_b = split_flags(flags)
    if len(names) == 1 and not only_b:
        raise UsageError(
            "B is the same as A; give a second configuration, or flags for B such as --b.optimizer.learning-rate 0.1"
        )
    read = [
        read_experiment("compare", [name, *both, *own], CompareSeedsOptions)
        for name, own in ((names[0], only_a), (names[-1], only_b))
    ]
    (_, first, options), (_, second, _) = read
    prepare()
    from jaxnets.evidence.comparison import compare

    found = compare(
        first,
        second,
        seeds=options.seeds,
        metric=options.metric,
        at_once=options.at_once,
        directory=options.directory or None,
    )
    if options.output:
        from jaxnets.core.files import replacing, user_path
        from jaxnets.report.plots import to_png

        with replacing(user_path(options.output)) as file:
            file.write(to_png(found.picture()))
    if options.json:
        print(json.dumps(as_data(found)))
        return 0
    from jaxnets.cli.runs import print_table

    rows = [
        [f"{seed}", f"{a:.4g}", f"{b:.4g}", f"{b - a:+.4g}"]
        for seed, a, b in zip(found.seeds, found.paired.first, found.paired.second, strict=True)
    ]
    print_table(["seed", "A", "B", "B - A"], rows)
    print(found)
    return 0


def as_data(found: Any) -> dict[str, Any]:
    """A comparison as plain data; null for missing numbers."""
    numbers = {"mean": found.mean, "half": found.half}
    return {
        "metric": found.metric,
        "split": found.split,
        "seeds": list(found.seeds),
        "a": list(found.paired.first),
        "b": list(found.paired.second),
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        "verdict": found.verdict,
        "more_seeds": found.paired.more_seeds() if found.verdict == "unclear" else 0,
        "changed": list(found.changed),
        "failed": dict(found.failed),
    }
