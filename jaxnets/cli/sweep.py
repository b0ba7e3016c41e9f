"""`jaxnets sweep`: a configuration trained with several values of its flags."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from jaxnets.core.errors import UsageError

RANGES = ("log", "linear")


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """Options of `jaxnets sweep`, beside the experiment's own fields."""

    random: int = 0
    """Number of settings to draw, instead of the grid of all values; then flags may have ranges, log:1e-4:1e-1 or
    linear:0:0.5."""
    draws: int = 0
    """Seed of these draws."""
    halving: int = 0
    """Keep one of this many settings after each part of the steps (successive halving); 0: train all to the end."""
    metric: str = ""
    """The metric by which settings are ranked; empty: the task's headline."""
    at_once: int = 32
    """Most runs in one program; 1: each in a separate program."""
    directory: str = ""
    """Directory of the results; runs that have a result there are not repeated. Empty: sweeps/CONFIG."""
    part: str = ""
    """3/16 trains the third of sixteen parts of the runs, for as many machines with one directory; empty: all."""
    output: str = ""
    """A .png file for the picture; empty: in the directory."""
    json: bool = False
    """Print one JSON object for each setting instead of the table."""

    def __post_init__(self) -> None:
        if self.random < 0:
            raise ValueError(f"random is a number of settings, at least 0; got {self.random}")
        if self.halving < 0 or self.halving == 1:
            raise ValueError(f"halving keeps one setting of 2 or more, or is 0; got {self.halving}")
        if self.at_once < 1:
            raise ValueError(f"at_once is at least 1, got {self.at_once}")
        if self.output and not self.output.endswith(".png"):
            raise ValueError(f"output is a .png file, got {self.output!r}")
        self.one_of()

    def one_of(self) -> tuple[int, int]:
        """The part as two numbers; raises `ValueError` if it is none."""
        number, _, parts = (self.part or "1/1").partition("/")
        if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
            raise ValueError(f"part is n/N with n from 1 to N, such as 3/16; got {self.part!r}")
        if self.part and self.halving:
            raise ValueError("--halving compares all settings with each other, so it does not go with --part")
        return int(number), int(parts)


def split_flags(flags: Sequence[str], whole: Sequence[str] = ()) -> tuple[list[str], dict[str, list[str]]]:
    """The flags with one value or none, unchanged, and the swept ones with their values by dotted name. Flags named in `whole`
    take several values as one, and are unchanged too.
    """
    fixed: list[str] = []
    axes: dict[str, list[str]] = {}
    waiting = list(flags)
    while waiting:
        flag, *waiting = waiting
        values: list[str] = []
        while waiting and not waiting[0].startswith("--"):
            value, *waiting = waiting
            values.append(value)
        name = flag.removeprefix("--").replace("-", "_")
        several = len(values) > 1 or any(value.split(":")[0] in RANGES and ":" in value for value in values)
        if several and name not in whole:
            axes[name] = values
        else:
            fixed += [flag, *values]
    return fixed, axes


def read(
    name: str,
    flags: Sequence[str],
    *,
    verb: str = "sweep",
    options: type = SweepOptions,
    whole: Sequence[str] = (),
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The configuration, its experiment, the options, and the swept fields with their values.

    Args:
        name: of the configuration.
        flags: what follows it.
        verb: of the command.
        options: a dataclass of the command's own flags.
        whole: the names of those that take several values as one.

    Raises:
        UsageError: a flag or a value is wrong; found before JAX is imported wherever that can be known.
    """
    from jaxnets.cli import fast_parse

    fixed, axes = split_flags(flags, whole)
    first = [part for axis, values in axes.items() for part in _as_flag(axis, _texts(values[0])[0])]
    loaded, experiment, chosen = fast_parse.read_experiment(verb, [name, *fixed, *first], options)
    return loaded, experiment, chosen, {axis: _values(loaded, experiment, axis, axes[axis], verb) for axis in axes}


def _values(loaded: Any, experiment: Any, axis: str, texts: Sequence[str], verb: str) -> Any:
    """The values of one swept field, read as its flag reads them."""
    from jaxnets.cli.fast_parse import with_flags
    from jaxnets.evidence.trials import Range, value_at

    begun = dataclasses.replace(loaded, experiment=experiment)

    def one(text: str) -> Any:
        changed, _ = with_flags(begun, f"jaxnets {verb} {loaded.name}", _as_flag(axis, text), SweepOptions)
        return value_at(changed, axis)

    if texts[0].split(":")[0] not in RANGES or ":" not in texts[0]:
        return [one(text) for text in texts]
    if len(texts) > 1:
        raise UsageError(f"{axis} takes one range or a list of values, got {' '.join(texts)}")
    scale = texts[0].split(":")[0]
    low, high = (one(text) for text in _texts(texts[0]))
    if not all(isinstance(value, int | float) for value in (low, high)):
        raise UsageError(f"{axis} holds no number, so it has no range; list its values")
    return Range(low, high, "log" if scale == "log" else "linear")


def _texts(value: str) -> list[str]:
    """A value as a flag has it; the two ends of a range."""
    kind, *ends = value.split(":")
    if kind not in RANGES or not ends:
        return [value]
    if len(ends) != 2:
        raise UsageError(f"a range is log:LOW:HIGH or linear:LOW:HIGH, got {value!r}")
    return ends


def _as_flag(axis: str, text: str) -> list[str]:
    """One value as the words of a flag: those of a tuple are joined by commas."""
    parts = [text] if "," not in text else [part for part in text.split(",") if part]
    return [f"--{axis.replace('_', '-')}", *parts]


def run(arguments: Sequence[str], prepare: Any) -> int:
    """Run the sweep, print its table, write its picture; `prepare` sets JAX up."""
    name, *flags = arguments
    loaded, experiment, options, values = read(name, flags)
    if not values:
        raise UsageError(
            f"`jaxnets sweep` takes a flag with several values, such as `jaxnets sweep {name} --optimizer.learning-rate 1e-3 "
            f"1e-2`; the parts of a value that is a list stand with commas between them (64,64)"
        )
    prepare()
    from jaxnets.core.files import replacing, user_path
    from jaxnets.evidence.search import sweep
    from jaxnets.report.plots import to_png

    folder = user_path(options.directory or f"sweeps/{loaded.name}")
    found = sweep(
        experiment,
        values,
        random=options.random,
        draws=options.draws,
        halving=options.halving,
        metric=options.metric,
        at_once=options.at_once,
        directory=folder,
        part=options.one_of(),
    )
    if options.part and not options.output:
        return _print(found, options, f"part {options.part}: {len(found.outcomes)} runs in {folder}; the same command "
                                      f"without --part has those of all parts")  # fmt: skip
    picture = user_path(options.output) if options.output else folder / "sweep.png"
    with replacing(picture) as file:
        file.write(to_png(found.picture()))
    return _print(found, options, f"{len(found.outcomes)} runs in {folder}; picture in {picture}")


def _print(found: Any, options: SweepOptions, last: str) -> int:
    """Print the settings, as a table or as JSON."""
    if options.json:
        for one in found.settings:
            print(json.dumps(_as_data(one, found.metric)))
        return 0
    from jaxnets.cli.runs import print_table

    print_table(*found.table())
    for note in found.notes():
        print(note)
    print(last)
    return 0


def _as_data(setting: Any, metric: str) -> dict[str, Any]:
    """A setting as plain data; null for missing numbers."""
    finite = {name: value if math.isfinite(value) else None for name, value in
              (("mean", setting.mean), ("half", setting.half))}  # fmt: skip
    return {"values": dict(setting.values), "metric": metric, **finite, "seeds": len(setting.scores),
            "failed": setting.failed, "steps": setting.steps}  # fmt: skip
