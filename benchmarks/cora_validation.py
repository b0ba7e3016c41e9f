"""Train `cora_gat` with the early stopping of its paper, which uses validation nodes only.

    python -m benchmarks.cora_validation --seeds 0 1 2 --output results.jsonl

Each step measures loss and accuracy on the 500 validation nodes of the Planetoid split. Training ends after `--patience` steps
in a row in which neither equals or improves its best value so far. The weights kept are those of the last step at which both
did (Velickovic et al. 2018, section 3.3, and the authors' code). They are evaluated once on the 1,000 test nodes, without
weight averaging. Prints one line of JSON for each seed, then mean and standard deviation over all seeds in the file.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets import config
from jaxnets.data import Cora
from jaxnets.steps.recipe import Recipe
from jaxnets.training.initial import create_state


def build(name):
    """Three compiled functions: the initial state for a seed, one step with validation metrics, and test metrics."""
    experiment = config.load(name).experiment
    batches = {}
    for measure in ("validation", "test"):
        data = Cora(measure=measure).open()
        for split in ("train", "test"):
            arrays = {key: jnp.asarray(array) for key, array in getattr(data, split).items()}
            arrays["inputs"] = data.prepare(arrays["inputs"])
            batches["train" if split == "train" else measure] = {**arrays, "mask": jnp.ones(1)}
    task = experiment.task.bind(data.card)
    optimizer = experiment.optimizer.build(experiment.steps)

    def recipe(seed):
        return Recipe(optimizer=optimizer, seed=seed)

    def measure(variables, split):
        return {key: mean.value for key, mean in task.metrics(variables, batches[split]).items()}

    @jax.jit
    def fresh(seed):
        return create_state(task, recipe(seed), batches["train"])

    @jax.jit
    def advance(seed, state):
        state, _ = task.make_step(recipe(seed))(state, batches["train"])
        return state, measure(state.variables, "validation")

    return fresh, advance, jax.jit(lambda state: measure(state.variables, "test"))


def early_stopping(fresh, advance, seed, *, patience, longest):
    """The state kept, its step, its validation metrics, and the number of steps trained."""
    seed = jnp.uint32(seed)
    state = fresh(seed)
    kept, lowest, highest, idle = (state, 0, {}), np.inf, 0.0, 0
    for step in range(1, longest + 1):
        state, seen = advance(seed, state)
        loss, accuracy = float(seen["loss"]), float(seen["accuracy"])
        if accuracy >= highest or loss <= lowest:
            if accuracy >= highest and loss <= lowest:
                kept = (state, step, {"loss": loss, "accuracy": accuracy})
            highest, lowest, idle = max(highest, accuracy), min(lowest, loss), 0
        else:
            idle += 1
            if idle == patience:
                break
    return *kept, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="cora_gat")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--patience", type=int, default=100)
    parser.add_argument("--longest", type=int, default=3000, help="maximum number of steps")
    parser.add_argument(
        "--output", type=Path, default=Path("cora_validation.jsonl"), help="results are appended to this file"
    )
    parser.add_argument("--seconds", type=float, default=1e9, help="start no new seed after this many seconds")
    arguments = parser.parse_args()
    fresh, advance, test = build(arguments.config)
    start = time.perf_counter()
    for seed in arguments.seeds:
        if time.perf_counter() - start > arguments.seconds:
            break
        begun, busy = time.perf_counter(), time.process_time()
        state, at, seen, steps = early_stopping(
            fresh, advance, seed, patience=arguments.patience, longest=arguments.longest
        )
        row = {
            "config": arguments.config,
            "seed": seed,
            "test_accuracy": round(float(test(state)["accuracy"]), 4),
            "validation_accuracy": round(seen["accuracy"], 4),
            "validation_loss": round(seen["loss"], 4),
            "kept_step": at,
            "steps": steps,
            "wall_seconds": round(time.perf_counter() - begun, 1),
            "cpu_seconds": round(time.process_time() - busy, 1),
        }
        with arguments.output.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    rows = [json.loads(line) for line in arguments.output.read_text().splitlines()]
    scores = {row["seed"]: row["test_accuracy"] for row in rows if row["config"] == arguments.config}
    spread = np.std(list(scores.values()), ddof=1) if len(scores) > 1 else float("nan")
    print(f"{arguments.config}: test accuracy {np.mean(list(scores.values())):.4f} ± {spread:.4f}, {len(scores)} seeds")


if __name__ == "__main__":
    main()
