"""The program of a run whose sizes change (`training/ramp.py`): a feed and a compiled program for each stage."""

import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh

from jaxnets.config.experiment import Experiment
from jaxnets.core.durations import Clock
from jaxnets.core.types import Batch
from jaxnets.data.feed import ResidentFeed, StreamFeed
from jaxnets.data.order import Order, Padded, staged
from jaxnets.data.shrink import Shrunk
from jaxnets.optim.schedules import with_clock
from jaxnets.parallel.mesh import padded_batch
from jaxnets.runs import checks
from jaxnets.steps.recipe import Step
from jaxnets.steps.state import TrainState
from jaxnets.tasks.base import Task
from jaxnets.training.program import Program
from jaxnets.training.stages import StagedProgram, check_stage


def in_stages(
    whole: Program,
    experiment: Experiment,
    clock: Clock,
    task: Task,
    mesh: Mesh,
    step: Step,
    abstract: TrainState,
    batch: Batch,
) -> Program | StagedProgram:
    """A program for each stage of `experiment.ramp`, the last one for the full sizes; `whole` if no size changes.

    Args:
        whole: the program of the full sizes.
        experiment: the run.
        clock: what its durations are measured by.
        task: its task, bound.
        mesh: its devices.
        step: one update.
        abstract: shapes of the state.
        batch: shapes of a batch of the full sizes.

    Raises:
        UsageError: the model, the data or the devices cannot take the sizes of a stage.
    """
    if not experiment.ramp.active:
        return whole
    feed = whole.feed
    assert isinstance(feed, ResidentFeed | StreamFeed)
    stages = with_clock(experiment.ramp, clock).stages(experiment.total_steps, experiment.batch_size)
    orders = staged(feed.examples, experiment.seed, [(stage.first, stage.batch_size) for stage in stages])
    programs = []
    for stage, order in zip(stages, orders, strict=True):
        sized = dataclasses.replace(experiment, batch_size=stage.batch_size)  # says if replicas do not divide it
        rows = padded_batch(stage.batch_size, mesh, micro_batches=experiment.micro_batch_count)
        padded: Order = Padded(order, rows) if rows != stage.batch_size else order
        shrunk = Shrunk(feed.ordered(padded), stage.resolution, stage.length)
        metrics = check_stage(stage, functools.partial(_metrics, step, abstract, batch, shrunk, rows))
        checks.check_padding(sized, rows, mesh, task, abstract, metrics)
        programs.append(whole.over(step, shrunk))
    return StagedProgram(stages, programs)


def _metrics(step: Step, abstract: TrainState, batch: Batch, shrunk: Shrunk, rows: int) -> Any:
    """Shapes of the metrics of a step on the batches of a stage."""
    resized = {name: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype) for name, a in batch.items()}
    return jax.eval_shape(lambda state, given: step(state, shrunk.shrink(given))[1], abstract, resized)
