"""Time a training step of every shipped configuration, and the same step in plain JAX.

    python -m benchmarks.zoo [CONFIGURATION ...] [--turns 5] [--seconds 1]

"ours" is the run as shipped: hand-written gradients, many steps in a dispatch. "plain" is the same run with the products and
convolutions of `jax.lax`, projections of recurrent networks before the scan, and one step in a dispatch (in a loop the
compiler's own convolution gradients are tens of times slower). Both are timed alternately in one process. Times are processor
time per step, so pin the process to one core. Prints one JSON object per configuration; a ratio below 1 means that "ours" is
slower.
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import time
import unittest.mock
from collections.abc import Callable, Iterator

import jax

from jaxnets.config.experiment import Experiment
from jaxnets.config.find import load, shipped
from jaxnets.models import recurrent
from jaxnets.ops import convolution, dense
from jaxnets.parallel.host_memory import keep_freed_memory
from jaxnets.runs.build import assemble
from jaxnets.training.loop import fit

# For accelerators: a step takes minutes on a CPU.
LEFT_OUT = {"gpt2_124m", "llama_1b", "llama_8b", "llama_70b", "mixtral_8x7b", "cifar10_resnet", "shakespeare_char_gpu"}


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
    """Programs traced in this context use the products for accelerators."""
    with contextlib.ExitStack() as stack:
        for module in (convolution, dense, recurrent):
            stack.enter_context(unittest.mock.patch.object(module, "compiled_for", return_value="plain"))
        yield


def runner(experiment: Experiment) -> tuple[Callable[[int], None], int]:
    """A function that runs more steps, and the number of steps in one dispatch."""
    parts = assemble(experiment, experiment.data.open())
    with jax.set_mesh(parts.mesh):
        held = [parts.fresh_state(), 0]

    def run(steps: int) -> None:
        with jax.set_mesh(parts.mesh):
            held[0] = fit(parts.program, held[0], start=held[1], stop=held[1] + steps, hooks=[])
            jax.block_until_ready(held[0])
        held[1] += steps

    return run, parts.program.capacity


def experiment_of(name: str) -> Experiment:
    """A shipped configuration, or one of two sizes for which peers were measured too."""
    if name == "resnet20_f32":
        shipped_one = load("cifar10_resnet").experiment
        model = dataclasses.replace(shipped_one.task.model, width=16)
        task = dataclasses.replace(shipped_one.task, model=model)
        return dataclasses.replace(shipped_one, task=task, batch_size=128)
    if name == "lstm_f32":
        shipped_one = load("shakespeare_lstm").experiment
        model = dataclasses.replace(shipped_one.task.model, embedding=256)
        task, data = (
            dataclasses.replace(shipped_one.task, model=model),
            dataclasses.replace(shipped_one.data, length=128),
        )
        return dataclasses.replace(shipped_one, task=task, data=data, batch_size=64)
    return load(name).experiment


def compare(name: str, *, turns: int, seconds: float) -> dict[str, object]:
    experiment = dataclasses.replace(experiment_of(name), steps=10**6)
    ours, capacity = runner(experiment)
    ours(capacity)
    with plain_forms():
        plain, _ = runner(dataclasses.replace(experiment, steps_per_call=1))
        plain(1)  # traced and compiled here
    counts = {}
    for who, run in (("ours", ours), ("plain", plain)):
        start = time.process_time()
        run(capacity)
        counts[who] = capacity * max(1, round(seconds / max(1e-3, time.process_time() - start)))
    taken: dict[str, list[float]] = {"ours": [], "plain": []}
    for turn in range(turns):
        for who, run in (("ours", ours), ("plain", plain))[:: 1 if turn % 2 else -1]:
            start = time.process_time()
            run(counts[who])
            taken[who].append((time.process_time() - start) / counts[who] * 1e3)
    row: dict[str, object] = {f"{who}_ms": round(min(times), 4) for who, times in taken.items()}
    row |= {f"{who}_median": round(statistics.median(times), 4) for who, times in taken.items()}
    return {"configuration": name, **row, "ratio": round(min(taken["plain"]) / min(taken["ours"]), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "configurations", nargs="*", default=[*sorted(set(shipped()) - LEFT_OUT), "resnet20_f32", "lstm_f32"]
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    keep_freed_memory()
    for name in options.configurations:
        print(json.dumps(compare(name, turns=options.turns, seconds=options.seconds)), flush=True)


if __name__ == "__main__":
    main()
