"""`jaxnets curve`: the error of a configuration over the number of training examples, or over the values of a flag."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from jaxnets.cli import sweep
from jaxnets.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class CurveOptions:
    """Options of `jaxnets curve`, beside the experiment's own fields."""

    examples: tuple[int, ...] = ()
    """Numbers of training examples; if the curve is over another flag, one number for all its runs."""
    seeds: int = 5
    """Runs of each value, from the experiment's seed on."""
    metric: str = "loss"
    """The metric to measure."""
    at_once: int = 32
    """Most runs in one program; 1: each in a separate program."""
    directory: str = ""
    """Directory of the results; runs that have a result there are not repeated. Empty: curves/CONFIG."""
    output: str = ""
    """A .png file for the picture; empty: in the directory."""
    json: bool = False
    """Print one JSON object instead of the table."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds is at least 1, got {self.seeds}")
        if self.at_once < 1:
            raise ValueError(f"at_once is at least 1, got {self.at_once}")
        if min(self.examples, default=1) < 1:
            raise ValueError(f"examples is at least 1, got {min(self.examples)}")
        if self.output and not self.output.endswith(".png"):
            raise ValueError(f"output is a .png file, got {self.output!r}")


def run(arguments: Sequence[str], prepare: Any) -> int:
    """Train, print the table and the law, write the picture; `prepare` sets JAX up."""
    name, *flags = arguments
    several = list(sweep.split_flags(flags)[1])
    if "seed" in several:
        raise UsageError("the seeds of a curve are --seeds N, from --seed on")
    if len(several) != 1:
        raise UsageError(
            f"`jaxnets curve` is over one thing, such as `--examples 100 300 1000` or `--task.model.widths 4 16 64`; got "
            f"{' and '.join(several) or 'no flag with several values'}"
        )
    loaded, experiment, options, values = sweep.read(
        name, flags, verb="curve", options=CurveOptions, whole=("examples",)
    )
    prepare()
    from jaxnets.core.files import replacing, user_path
    from jaxnets.evidence.curves import curve
    from jaxnets.report.plots import to_png

    folder = user_path(options.directory or f"curves/{loaded.name}")
    found = curve(
        experiment,
        examples=options.examples,
        over=values or None,
        seeds=options.seeds,
        metric=options.metric,
        at_once=options.at_once,
        directory=folder,
    )
    try:
        law = found.law()
        says = str(law)
    except UsageError as error:
        law, says = None, f"no law: {error}"
    picture = user_path(options.output) if options.output else folder / "curve.png"
    with replacing(picture) as file:
        file.write(to_png(found.picture(law)))
    if options.json:
        print(json.dumps(as_data(found, law)))
        return 0
    from jaxnets.cli.runs import print_table

    print_table(*found.table())
    for note in found.notes():
        print(note)
    print(says)
    print(f"{len(found.points) * options.seeds} runs in {folder}; picture in {picture}")
    return 0


def as_data(found: Any, law: Any) -> dict[str, Any]:
    """A curve and its law as plain data; null for missing numbers."""
    points = [
        {
            "value": one.value,
            "parameters": one.parameters,
            "seeds": list(one.seeds),
            "failed": one.failed,
            "training": _plain(one.fitted),
            found.watched: _plain(one.mean),
            "half": _plain(one.half),
            **({"bias": one.split.bias, "variance": one.split.variance} if one.split else {}),
        }
        for one in found.points
    ]
    fitted = None
    if law is not None:
        names = ("floor", "scale", "exponent")
        ends = [[_plain(end) for end in law.interval(lambda constants, n=n: constants[n])] for n in range(3)]
        fitted = {**dict(zip(names, law.constants, strict=True)), "intervals": dict(zip(names, ends, strict=True)),
                "over": law.over, "notes": law.notes()}  # fmt: skip
    return {"over": found.over, "metric": found.metric, "error": found.error, "points": points, "law": fitted}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
