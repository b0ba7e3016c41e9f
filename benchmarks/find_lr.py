"""Whether the rate that `jaxnets find-lr` gives trains as well as the best of a grid, on short versions of configurations.

    python benchmarks/find_lr.py digits_softmax tabular digits_ae california_mlp digits_cnn

Prints, for each, the main metric with the pick, with the best rate of the grid, and how far apart they are.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

import jaxnets
from jaxnets import config
from jaxnets.core.errors import JaxnetsError
from jaxnets.runs.find_rate import find_rate

# Steps of the short versions.
STEPS = {"digits_softmax": 600, "tabular": 300, "digits_ae": 400, "california_mlp": 600, "digits_cnn": 150}
GRID = np.geomspace(1e-4, 1, 9)


def main(names: Sequence[str]) -> None:
    """Find and compare."""
    for name in names:
        experiment = dataclasses.replace(config.load(name).experiment, steps=STEPS.get(name, 300), eval_every=0)
        found = find_rate(experiment)
        pick = score(experiment, found.rate)
        scores = {rate: score(experiment, rate) for rate in GRID.tolist()}
        best = max(scores, key=lambda rate: scores[rate] if np.isfinite(scores[rate]) else -np.inf)
        apart = (scores[best] - pick) / abs(scores[best])
        print(
            f"{name}: pick {found.rate:.2g} (repeats apart by {found.test.spread:.2g}) gives {pick:.4g}; best of the grid: "
            f"{best:.2g} gives {scores[best]:.4g}; the pick is {apart:.1%} worse",
            flush=True,
        )


def score(experiment: Any, rate: float) -> float:
    """The main metric on the test split after a short training, with its sign changed where less is better."""
    optimizer = dataclasses.replace(experiment.optimizer, learning_rate=rate)
    try:
        run = jaxnets.train(dataclasses.replace(experiment, optimizer=optimizer), progress="none")
    except JaxnetsError:  # not finite
        return float("nan")
    task = run.parts.task
    return float(run.history.last("test")[task.headline]) * (1 if task.higher_is_better else -1)


if __name__ == "__main__":
    main(sys.argv[1:] or list(STEPS))
