"""What ten callbacks cost: seconds of a run with and without them, in turns.

    python -m benchmarks.callbacks

Each callback counts the steps and adds up the loss, which is what most do at every step.
"""

import argparse
import statistics
import time

import jaxnets
from jaxnets.config import load
from jaxnets.runs.train import train


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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["digits_cnn", "tabular"])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
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
