"""The speed of batch sizes of an experiment on the present devices, and the noise of its gradients."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.core.types import Batch
from jaxnets.data.dataset import Dataset
from jaxnets.diagnose.noise import NoiseScale, noise_scale, squared_norms
from jaxnets.ops.random import with_keys
from jaxnets.optim.averaging import EMA
from jaxnets.optim.local_sgd import LocalSGD
from jaxnets.parallel.mesh import batch_devices
from jaxnets.runs.build import Parts, assemble


def throughput(
    experiment: Experiment, sizes: Sequence[int], dataset: Dataset | None = None, *, seconds: float = 10.0
) -> dict[int, float]:
    """Examples a second by batch size, on the present devices.

    The sizes are timed in turns, so that a slow moment of the machine affects all of them; the best turn of each counts. The
    state is handed from one program to the next, so there is one of it in memory.

    Args:
        experiment: what would be trained.
        sizes: of the batches.
        dataset: the data, where they are not to be opened from `experiment.data`.
        seconds: of measuring in all, beside compilation.
    """
    plain = dataclasses.replace(experiment, steps_per_call=0)
    dataset = dataset if dataset is not None else experiment.data.open()
    built = [assemble(dataclasses.replace(plain, batch_size=size), dataset) for size in sizes]
    best = dict.fromkeys(sizes, 0.0)
    with jax.set_mesh(built[0].mesh):
        state = built[0].fresh_state()
        loaded = [parts.feed.load(0, parts.program.capacity, parts.program.capacity) for parts in built]
        for parts, payload in zip(built, loaded, strict=True):  # compile
            state = _call(parts, state, payload)[0]
        began, turn = time.perf_counter(), 0
        while turn < 2 or time.perf_counter() - began < seconds:
            for size, parts, payload in zip(sizes, built, loaded, strict=True):
                state, took = _call(parts, state, payload)
                best[size] = max(best[size], size * parts.program.capacity / took)
            turn += 1
    return best


def _call(parts: Parts, state: Any, payload: Any) -> tuple[Any, float]:
    """One dispatch, timed to its end."""
    began = time.perf_counter()
    state, _ = parts.program(state, payload, parts.program.capacity)
    jax.block_until_ready(state)
    return state, time.perf_counter() - began


def measure_noise(
    experiment: Experiment, dataset: Dataset | None = None, *, steps: int = 60, skip: int = 10
) -> NoiseScale | None:
    """The gradient noise scale over the first steps of training; None where a batch cannot be divided.

    Args:
        experiment: what would be trained.
        dataset: the data, where they are not to be opened from `experiment.data`.
        steps: to train; each gives the norms of the gradients of its batch's parts, and of the whole.
        skip: steps in front that do not count.
    """
    plain = dataclasses.replace(experiment, average=EMA(), local=LocalSGD(), micro_batches=1)
    parts = assemble(plain, dataset)
    if parts.task.players:
        raise UsageError(f"{type(parts.task).__name__} has several players, each with a noise scale of its own")
    rows = experiment.batch_size
    count = next((n for n in (4, 2, 3, 5, 7) if rows % n == 0 and rows // n % batch_devices(parts.mesh) == 0), None)
    if count is None:
        return None
    task, recipe, feed = parts.task, parts.recipe, parts.feed
    step = task.make_step(recipe)

    def norms(state: Any, batch: Batch) -> Array:
        batch = with_keys(batch, recipe.key("examples", state.step))
        split = jax.tree.map(lambda a: jnp.moveaxis(a.reshape(-1, count, *a.shape[1:]), 1, 0), batch)

        def gradient(part: Batch) -> Any:
            def mean(params: Any) -> Array:
                variables = {"params": recipe.held(params), **state.model_state}
                cast = recipe.precision.cast(variables, part)
                return task.loss(*cast, recipe.key("model", state.step), True)[0].value

            return jax.grad(mean)(state.params)

        return squared_norms(jax.lax.map(gradient, split))

    @jax.jit
    def run(state: Any, payload: Any) -> Array:
        def body(state: Any, i: Array) -> tuple[Any, Array]:
            batch = feed.batch(payload, i, state.step)
            found = norms(state, batch)
            return step(state, batch)[0], found

        return jax.lax.scan(body, state, jnp.arange(steps))[1]

    with jax.set_mesh(parts.mesh):
        found = np.asarray(run(parts.fresh_state(), feed.load(0, steps, steps)))
    kept = found[skip:][np.isfinite(found[skip:]).all(axis=1)]
    return noise_scale(kept, part=rows // count, whole=rows) if len(kept) else None
