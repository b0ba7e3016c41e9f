"""`jaxnets find-lr`: the learning rate to train a configuration with, by range tests."""

import dataclasses
import json
import math
from typing import Any

from jaxnets.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class FindRateOptions:
    """Options of `jaxnets find-lr`."""

    low: float = 1e-7
    """The first learning rate (a multiple of the optimizer's own rate, if that is unknown)."""
    high: float = 10.0
    """The last one."""
    tries: int = 150
    """Rates in between, each for one batch."""
    repeats: int = 3
    """Tests with other weights and batches; their spread shows how reliable the result is."""
    output: str = ""
    """A .png file for the plot."""
    json: bool = False
    """Print one JSON object instead of the table."""

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(f"rates grow from low to high, 0 < low < high; got {self.low} and {self.high}")
        if self.tries < 10:
            raise ValueError(f"tries is at least 10, got {self.tries}")
        if self.repeats < 1:
            raise ValueError(f"repeats is at least 1, got {self.repeats}")
        if self.output and not self.output.endswith(".png"):
            raise ValueError(f"output is a .png file, got {self.output!r}")


def run(loaded: Any, experiment: Any, options: FindRateOptions) -> int:
    """Print the rate to train with, as a flag, and its spread; only the plot is written."""
    from jaxnets.runs.find_rate import find_rate

    asked = {name: getattr(options, name) for name in ("low", "high", "tries", "repeats")}
    found = find_rate(experiment, **asked)
    if options.output:
        from jaxnets.core.files import replacing, user_path
        from jaxnets.report.plots import to_png

        with replacing(user_path(options.output)) as file:
            file.write(to_png(picture(found)))
    if options.json:
        print(json.dumps(as_data(loaded.name, found)))
    else:
        show(loaded.name, found)
    return 0


def picture(found: Any) -> Any:
    """The figure of a result."""
    from jaxnets.report.instrument_plots import rate_test

    test = found.test
    groups = {name: (one.rates, one.mean, _pick(one)) for name, one in found.groups.items()}
    what = "learning rate" if found.given is not None else "multiple of the optimizer's own learning rate"
    return rate_test(
        test.rates, test.losses, test.smoothed, pick=_pick(test), given=found.given, groups=groups, what=what
    )


def as_data(name: str, found: Any) -> dict[str, Any]:
    """A result as plain data."""
    return {
        "configuration": name,
        "given": found.given,
        "unit": "rate" if found.given is not None else "multiple of the given rate",
        **_row(found.test),
        "groups": {pattern: _row(one) for pattern, one in found.groups.items()},
    }


def show(name: str, found: Any) -> None:
    """Print a result as a table."""
    from jaxnets.cli.runs import print_table

    multiple = found.given is None
    tests = {"all together" if found.groups else name: found.test, **{f"{p} alone": t for p, t in found.groups.items()}}
    rows = [
        [label, *_cells(_row(one)), "1" if multiple else f"{found.given:.3g}" if one is found.test else ""]
        for label, one in tests.items()
    ]
    unit = "times the optimizer's own rate" if multiple else "learning rate"
    print_table([unit, "to train with", "factor between repeats", "falls fastest at", "lowest loss at", "given"], rows)
    pick = found.rate  # raises where nothing was learned
    if multiple:
        print(f"train with {pick:.2g} times the learning rate that the optimizer has now")
    elif not found.groups:
        print(f"jaxnets train {name} --optimizer.learning-rate {pick:.2g}")
    if not found.test.spread <= 3:
        print("the repeats do not agree: use larger batches (--batch-size) or more repeats (--repeats)")


def _pick(test: Any) -> float | None:
    try:
        return float(test.pick)
    except UsageError:
        return None


def _row(test: Any) -> dict[str, Any]:
    """The numbers of one test; null if no repeat learned."""
    pick = _pick(test)
    spread = test.spread if pick is not None and math.isfinite(test.spread) else None
    middle: dict[str, float | None] = {"steepest": None, "lowest": None}
    if pick is not None:
        middle = {"steepest": _middle(test.steepest), "lowest": _middle(test.turns)}
    return {"rate": pick, "spread": spread, **middle, "repeats": len(test.losses), "learned": int(test.learned.sum())}


def _middle(values: Any) -> float:
    """The geometric mean."""
    return math.exp(sum(math.log(float(value)) for value in values) / len(values))


def _cells(row: dict[str, Any]) -> list[str]:
    return ["-" if row[key] is None else f"{row[key]:.3g}" for key in ("rate", "spread", "steepest", "lowest")]
