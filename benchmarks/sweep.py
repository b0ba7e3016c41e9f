"""A sweep in one program beside the same runs one after the other: time, and how far the results are apart.

`python -m benchmarks.sweep digits_softmax --steps 200 --output FILE.jsonl`
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxnets import config
from jaxnets.evidence import sweep

RATES, SEEDS = (1e-3, 3e-3, 1e-2, 3e-2), (0, 1, 2, 3)


def measured(name: str, steps: int, rates: Sequence[float], seeds: Sequence[int]) -> dict[str, Any]:
    """All pairs of rates and seeds both ways; compilation is part of the time.

    The time of the processors counts what other programs on the machine do not disturb.
    """
    experiment = dataclasses.replace(config.load(name).experiment, steps=steps, eval_every=0)
    values = {"optimizer.learning_rate": rates, "seed": seeds}
    results, seconds, processors = [], [], []
    for at_once in (len(rates) * len(seeds), 1):
        jax.clear_caches()
        began, busy = time.perf_counter(), time.process_time()
        results.append(sweep(experiment, values, at_once=at_once, progress="none"))
        seconds.append(round(time.perf_counter() - began, 2))
        processors.append(round(time.process_time() - busy, 2))
    pairs = [(a.metrics, b.metrics) for a, b in zip(results[0].outcomes, results[1].outcomes, strict=True)]
    apart = {key: max(abs(a[key] - b[key]) for a, b in pairs) for key in pairs[0][0]}
    return {
        "configuration": name,
        "steps": steps,
        "runs": len(pairs),
        "platform": jax.devices()[0].platform,
        "seconds": dict(zip(("in_one_program", "one_by_one"), seconds, strict=True)),
        "processor_seconds": dict(zip(("in_one_program", "one_by_one"), processors, strict=True)),
        "largest_difference": apart,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configurations", nargs="+")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--output", type=Path, help="a file to which a line of JSON is added for each configuration")
    given = parser.parse_args()
    for name in given.configurations:
        line = json.dumps(measured(name, given.steps, given.rates, given.seeds))
        print(line, flush=True)
        if given.output:
            with given.output.open("a") as file:
                file.write(f"{line}\n")


if __name__ == "__main__":
    main()
