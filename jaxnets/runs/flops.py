"""FLOPs of a training step by its trace, and the share of the peak of the devices that a run reaches with them (MFU)."""

from collections.abc import Callable
from typing import Any

import jax

from jaxnets.parallel.chips import chip_of
from jaxnets.parallel.mesh import MeshShape, make_mesh
from jaxnets.runs.build import Parts
from jaxnets.steps.local import whole_step
from jaxnets.tasks.base import Task
from jaxnets.training.program import count_flops


def step_flops(parts: Parts) -> float:
    """FLOPs of one step over the whole batch, what is computed again included."""
    with jax.set_mesh(parts.mesh):
        step = whole_step(parts.task, parts.recipe)
        return count_flops(jax.make_jaxpr(step)(parts.abstract, parts.batch_spec).jaxpr)


def forward_flops(parts: Parts) -> float:
    """FLOPs of the forward pass of one step over the whole batch; for a task with a step of its own, a third of that step."""
    task, recipe = parts.task, parts.recipe

    def forward(state: Any, batch: Any, key: Any) -> Any:
        variables, part = recipe.precision.cast(state.variables, batch)
        return task.loss(variables, part, key, True)[0]

    if _own_step(task):  # its loss may take other arrays than a batch of the data
        return step_flops(parts) / 3
    key = jax.eval_shape(lambda: jax.random.key(0))
    # As on one device: turns of a pipeline in which a stage has nothing to do are no work of the model.
    with jax.set_mesh(make_mesh(MeshShape(data=1), devices=[parts.mesh.devices.flat[0]])):
        return count_flops(jax.make_jaxpr(forward)(parts.abstract, parts.batch_spec, key).jaxpr)


def model_flops(parts: Parts) -> float:
    """FLOPs of one step over the whole batch, without what is computed again: three times those of the forward pass.

    Where a part has no backward pass (a teacher, frozen layers), the step takes less, and its own FLOPs are given.
    """
    return min(3 * forward_flops(parts), step_flops(parts))


def _own_step(task: Any) -> bool:
    inner = getattr(task, "inner", task)
    return bool(task.players) or type(inner).make_step is not Task.make_step


def utilisation(parts: Parts) -> Callable[[float], float] | None:
    """Gives the model FLOPs utilisation for a speed in examples per second (Chowdhery et al. 2022, appendix B).

    That is `model_flops`, divided by the peak of all devices of the mesh in the same time. None where the peak is not known,
    or images or sequences are smaller at the beginning of the run (`ramp`).
    """
    experiment, device = parts.experiment, parts.mesh.devices.flat[0]
    chip = chip_of(device.device_kind)
    peak = experiment.peak_flops or (chip.flops if chip is not None else 0.0)
    if not peak or experiment.ramp.resolution or experiment.ramp.length:
        return None
    rows = parts.batch_spec["mask"].shape[0]  # with those that fill the batch up where devices do not divide it
    share = model_flops(parts) / rows / (peak * parts.mesh.devices.size)
    return lambda speed: speed * share
