"""What ten callbacks cost: their time for a step alone, and seconds of a run with and without them, in turns.

    python -m benchmarks.callbacks
    python -m benchmarks.callbacks --alone   # only the first, which takes a second and is steady on a busy machine

Each callback counts the steps and adds up the loss, which is what most do at every step.
"""

import argparse
import statistics
import time

import numpy as np

import jaxnets
from jaxnets.callbacks.as_hooks import Callbacks
from jaxnets.callbacks.callback import Progress
from jaxnets.config import load
from jaxnets.runs.train import train
from jaxnets.training.stopping import Stopping


class Count(jaxnets.Callback):
    """Counts steps and adds up the loss."""

    def __init__(self):
        self.steps, self.total = 0, 0.0

    def stepped(self, run, step, metrics):
        self.steps, self.total = self.steps + 1, self.total + metrics["loss"]


def seconds(experiment, dataset, hooks):
    """Of a whole run on data in memory, compilation included; the compilation is the same with and without hooks."""
    began = time.perf_counter()
    train(experiment, dataset=dataset, hooks=hooks, progress="none")
    return time.perf_counter() - began


def alone(count, steps=100, turns=50):
    """Microseconds of the host for a step: the best turn, with five metrics of steps that came in one call."""
    stopping = Stopping()
    hooks = Callbacks([Count() for _ in range(count)], Progress(None, None, None, None, stopping), stopping).hooks
    best = float("inf")
    for _ in range(turns):
        metrics = {name: (np.ones(steps, np.float32),) * 2 for name in ("loss", "accuracy", "rate", "norm", "examples")}
        began = time.perf_counter()
        for hook in hooks:
            hook.observe(0, metrics)
        best = min(best, (time.perf_counter() - began) / steps)
    return best * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["digits_cnn", "tabular"])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    print(f"ten callbacks take {alone(10):.2f} us of the host for a step, one {alone(1):.2f} us", flush=True)
    if options.alone:
        return
    for name in options.names:
        short, long = (
            jaxnets.Experiment(**{**vars(load(name).experiment), "steps": steps, "eval_every": 0})
            for steps in (options.steps // 10, options.steps)
        )
        dataset = short.data.open()
        costs = {0: [], 10: []}
        for _ in range(options.turns):
            for count in costs:  # the difference of two lengths leaves compilation and evaluation out
                spent = [seconds(one, dataset, [Count() for _ in range(count)]) for one in (short, long)]
                costs[count].append((spent[1] - spent[0]) / (long.steps - short.steps))
        without, with_ten = (statistics.median(costs[count]) * 1e3 for count in (0, 10))
        spread = (max(costs[0]) / min(costs[0]) - 1) * 100
        print(
            f"{name}: {without:.4f} ms a step without, {with_ten:.4f} with ten callbacks: {with_ten / without - 1:+.1%} "
            f"({(with_ten - without) * 100:.2f} us a callback; {spread:.0f} % between turns without)",
            flush=True,
        )


if __name__ == "__main__":
    main()
