"""What measuring the health of a network costs: processor time of a step with `health.every` and without, taking turns.

    python benchmarks/health.py digits_cnn reverse_words
    python benchmarks/health.py digits_cnn --turns 60     # where other programs run

Prints the median over the turns of the ratio of both times, and the range of its middle half; "off again" shows the noise. The
process stays on one core, so that its threads do not wait for each other.
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Sequence

import jax
import numpy as np

from jaxnets import config
from jaxnets.runs.build import Parts, assemble
from jaxnets.steps.health import Health

EVERY = 50


def main(names: Sequence[str], turns: int) -> None:
    """Measure each configuration."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for name in names:
        experiment = config.load(name).experiment
        experiment = dataclasses.replace(experiment, steps_per_call=EVERY, log_every=max(EVERY, experiment.log_every))
        dataset = experiment.data.open()
        settings = {"off": Health(), "norms": Health(EVERY, "norms"), "all": Health(EVERY), "off again": Health()}
        built = {k: assemble(dataclasses.replace(experiment, health=v), dataset) for k, v in settings.items()}
        with jax.set_mesh(built["off"].mesh):
            seconds = measured(built, turns)
        base = seconds["off"]
        print(f"{name}: {np.median(base) / EVERY * 1e3:.3g} ms a step")
        for kind in ("norms", "all", "off again"):
            low, middle, high = np.quantile(seconds[kind] / base - 1, (0.25, 0.5, 0.75))
            best = seconds[kind].min() / base.min() - 1
            print(
                f"  {kind:<10} {middle:+.1%} (middle half {low:+.1%} to {high:+.1%}; best turns {best:+.1%})",
                flush=True,
            )


def measured(built: dict[str, Parts], turns: int) -> dict[str, np.ndarray]:
    """Seconds of the processor for a call of `EVERY` steps, `[turns]` for each kind."""
    first = built["off"]
    payload = first.feed.load(0, EVERY, EVERY)
    states = {kind: parts.program.adopt(first.fresh_state()) for kind, parts in built.items()}
    found: dict[str, list[float]] = {kind: [] for kind in built}
    for turn in range(turns + 1):
        for kind, parts in built.items():
            began = time.process_time()
            states[kind], metrics = parts.program(states[kind], payload, EVERY)
            jax.block_until_ready((states[kind], metrics))
            if turn:  # the first one compiles
                found[kind].append(time.process_time() - began)
    return {kind: np.asarray(times) for kind, times in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["digits_cnn"])
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    main(options.names, options.turns)
