"""A sweep in one program beside the same runs one after the other: time, and how far the results are apart.

`python -m benchmarks.sweep digits_softmax --steps 200 --output FILE.json`
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax

from jaxnets import config
from jaxnets.evidence import sweep

RATES, SEEDS = (1e-3, 3e-3, 1e-2, 3e-2), (0, 1, 2, 3)


def measured(name: str, steps: int) -> dict[str, Any]:
    """Sixteen runs (four rates, four seeds) both ways; compilation is part of the time."""
    experiment = dataclasses.replace(config.load(name).experiment, steps=steps, eval_every=0)
    values = {"optimizer.learning_rate": RATES, "seed": SEEDS}
    results, seconds = [], []
    for at_once in (len(RATES) * len(SEEDS), 1):
        jax.clear_caches()
        began = time.perf_counter()
        results.append(sweep(experiment, values, at_once=at_once, progress="none"))
        seconds.append(time.perf_counter() - began)
    pairs = [(a.metrics, b.metrics) for a, b in zip(results[0].outcomes, results[1].outcomes, strict=True)]
    apart = {key: max(abs(a[key] - b[key]) for a, b in pairs) for key in pairs[0][0]}
    return {
        "configuration": name,
        "steps": steps,
        "runs": len(pairs),
        "platform": jax.devices()[0].platform,
        "seconds_in_one_program": round(seconds[0], 2),
        "seconds_one_by_one": round(seconds[1], 2),
        "share_of_the_time": round(seconds[0] / seconds[1], 3),
        "largest_difference": apart,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configurations", nargs="+")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = [measured(name, given.steps) for name in given.configurations]
    print("\n".join(map(json.dumps, found)))
    if given.output:
        given.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
