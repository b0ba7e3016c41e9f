"""jaxnets' own loop, with the logging hook of every run. `fit`: as shipped; `no_guard`: without the finite check."""

import dataclasses

import jax
from workloads import LEARNING_RATE, WEIGHT_DECAY

from jaxnets.config.experiment import Experiment
from jaxnets.data import InMemory, from_arrays
from jaxnets.models import CNN, MLP
from jaxnets.optim import AdamW, Constant
from jaxnets.runs.build import assemble
from jaxnets.tasks import Classification
from jaxnets.training.hooks import LogHook
from jaxnets.training.loop import fit
from jaxnets.training.plan import Every
from jaxnets.training.program import Program


def build(workload, variant):
    x, y = workload.data()
    data = from_arrays(x, y, test=(x[:512], y[:512]), standardize=False)
    if workload.kind == "mlp":
        model = MLP(widths=workload.widths)
    else:
        model = CNN(features=workload.widths, dense=(128,))
    experiment = Experiment(
        task=Classification(model=model),
        data=InMemory(),
        optimizer=AdamW(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, schedule=Constant()),
        batch_size=workload.batch,
    )
    parts = assemble(experiment, data)
    program = parts.program
    if variant == "no_guard":
        step = parts.task.make_step(dataclasses.replace(parts.recipe, guard="off"))
        program = Program(step, parts.feed, steps_per_call=program.capacity, state_shardings=parts.shardings)
    with jax.set_mesh(parts.mesh):
        held = [parts.fresh_state(), 0]
    seen = []

    def run(steps):
        start = held[1]
        hook = LogHook(
            Every(50, (start + steps,)),
            parts.task,
            batch_size=workload.batch,
            record=seen.append,
            show=lambda step, shown: None,
        )
        with jax.set_mesh(parts.mesh):
            held[0] = fit(program, held[0], start=start, stop=start + steps, hooks=[hook])
        held[1] = start + steps
        return seen[-1]["loss"]

    return run
