"""Checks of an experiment together with its data, before the first step."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from jaxnets.checkpoints.digest import leaf_paths
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import DataError, UsageError, note
from jaxnets.core.types import Batch
from jaxnets.data.dataset import Dataset
from jaxnets.data.split import WEIGHTS
from jaxnets.ops.roles import without_role
from jaxnets.optim.given import ByPath
from jaxnets.optim.optimizers import Optimizer
from jaxnets.optim.reading import evaluates_others
from jaxnets.parallel.mesh import batch_devices, check_batch
from jaxnets.steps.recipe import Recipe
from jaxnets.steps.sown import METRIC as SOWN
from jaxnets.steps.state import TrainState
from jaxnets.tasks.base import Task


def check_decay(optimizer: Optimizer, abstract: TrainState) -> None:
    """Note the parameters that do not decay because their names give no role."""
    unknown, where = _without_decay(optimizer, abstract.params)
    if unknown:
        note(
            f"weight decay leaves {', '.join(unknown[:6])} alone, whose names do not say that they are weights; call them "
            f"something like {unknown[0].split('/')[-1]}_kernel, or list what decays in {where}.weight_decay_on"
        )


def _without_decay(optimizer: Optimizer, params: Any, where: str = "optimizer") -> tuple[list[str], str]:
    """Parameters that do not decay because their names give no role, and the field of the optimizer that decays the others.

    It is looked for inside optimizers around others, and in the groups of `ByPath`.
    """
    if isinstance(optimizer, ByPath):
        found: list[str] = []
        try:
            groups = leaf_paths(optimizer.labels(params))
        except UsageError:  # it gets a part of the parameters only: the others are frozen, or belong to other rules
            return [], where
        fields = [where]
        for number, (pattern, part) in enumerate(optimizer.rules):
            unknown, field = _without_decay(part, params, f"{where}[{pattern!r}]")
            own = [path for path in unknown if groups[path] == number]
            found, fields = found + own, fields + [field] * bool(own)
        return found, fields[min(1, len(fields) - 1)]
    if isinstance(inside := getattr(optimizer, "optimizer", None), Optimizer):
        return _without_decay(inside, params, f"{where}.optimizer")
    decays = getattr(optimizer, "weight_decay", 0.0) and not getattr(optimizer, "weight_decay_on", ())
    return (without_role(params) if decays else []), where


def check_updates(experiment: Experiment, abstract: TrainState, recipe: Recipe) -> None:
    """Raise `UsageError` if changes of the gradient or penalties are not supported for these parameters or this optimizer."""
    experiment.gradient.check(abstract.params)
    experiment.penalty.check(abstract.params)
    if not experiment.penalty.l1:
        return
    kind = type(experiment.optimizer).__name__
    experiment.penalty.needs_rate(recipe.rate, kind)
    remedy = "use penalty.lp with penalty.p=1, a term of the loss"
    if evaluates_others(abstract.opt_state):
        raise UsageError(f"penalty.l1 makes zeros in the weights, and {kind} evaluates an average of them; {remedy}")
    if experiment.local.active:
        raise UsageError(
            f"penalty.l1 makes zeros in each of {experiment.local.replicas} replicas, and their mean has none; {remedy}"
        )


def check_axes(task: Task, placed: Any, mesh: Mesh) -> None:
    """Raise `UsageError` if an axis of the mesh would split nothing of the model; note heads that are divided."""
    model = task.model
    kind = type(model).__name__
    parts = {
        "tensor": "attention, MLPs, embeddings and output layers whose sizes it divides; set it to 1 and use mesh.fsdp",
        "expert": "mixtures of experts whose number it divides; set it to 1",
    }
    for axis, what in parts.items():
        size = mesh.shape.get(axis, 1)
        if size > 1 and not any(axis in sharding.spec for sharding in jax.tree.leaves(placed)):
            raise UsageError(
                f"mesh.{axis} is {size}, but no layer of {kind} is split: the partition rules are for {what}"
            )
    if mesh.shape.get("sequence", 1) > 1 and not getattr(model, "splits_sequence", False):
        raise UsageError(
            f"mesh.sequence is {mesh.shape['sequence']}, but {kind} needs whole sequences: LanguageModel can split them, by "
            f"attention over several devices; set it to 1 and use mesh.fsdp"
        )
    heads = getattr(model, "heads", None)
    if isinstance(heads, int) and heads % mesh.shape["tensor"]:
        note(
            f"mesh.tensor {mesh.shape['tensor']} does not divide the {heads} heads of {kind}, so devices add up parts of the "
            f"attention scores; a number that divides them is faster"
        )


def check_pipeline(model: Any, mesh: Mesh) -> None:
    """Raise `UsageError` if the layers of a model cannot be the stages of the mesh's pipeline."""
    count = mesh.shape.get("pipeline", 1)
    if count == 1:
        return
    kind, name = type(model).__name__, f"mesh.pipeline is {count}, but"
    rounds = getattr(model, "pipeline_rounds", 1)
    if not getattr(model, "splits_layers", False) or kind in ("LoRA", "Layered"):
        raise UsageError(f"{name} the layers of {kind} cannot be its stages, those of LanguageModel can; set it to 1")
    if model.blocks != "scanned":
        raise UsageError(f"{name} the blocks of {kind} are unrolled; set task.model.blocks to scanned")
    if model.layers % (count * rounds):
        raise UsageError(
            f"{name} {count} stages in {rounds} rounds do not divide the {model.layers} layers of {kind}; change it, or "
            f"task.model.pipeline_rounds"
        )
    if model.experts.count:
        raise UsageError(f"{name} a pipeline has no way for the losses of experts; set it to 1 and use mesh.expert")
    if mesh.shape.get("sequence", 1) > 1:
        raise UsageError(
            f"{name} mesh.sequence is {mesh.shape['sequence']}; a stage needs whole sequences: set one to 1"
        )
    if model.dropout:
        note("each part of a batch in the pipeline draws its own dropout, so the draws are other ones than without it")


def check_offload(experiment: Experiment, task: Task, abstract: TrainState) -> None:
    """Raise `UsageError` if a feature other than the update reads the optimizer state, which is then not on the devices."""
    why = ""
    if task.players:
        why = f"{type(task).__name__} has several optimizers"
    elif experiment.local.active:
        why = f"local.replicas is {experiment.local.replicas}, and the replicas are in the optimizer state"
    elif evaluates_others(abstract.opt_state):
        why = "the optimizer evaluates weights that are in its state"
    if why:
        raise UsageError(f"mesh.offload is 'optimizer', but {why}; set it to 'none'")


def check_replicas(experiment: Experiment, abstract: TrainState, mesh: Mesh) -> None:
    """Raise `UsageError` if local SGD is not supported on this mesh or with this optimizer."""
    local = experiment.local
    if not local.active:
        return
    if local.replicas % mesh.shape.get("replica", 1):
        raise UsageError(
            f"mesh.replica {mesh.shape['replica']} does not divide local.replicas {local.replicas}; make them equal, or set "
            f"mesh.replica to 1"
        )
    if mesh.shape.get("pipeline", 1) > 1:
        raise UsageError(
            f"local.replicas is {local.replicas}, but mesh.pipeline is {mesh.shape['pipeline']}; set one of them to 1"
        )
    if evaluates_others(abstract.opt_state):
        raise UsageError(
            f"local.replicas is {local.replicas}, but the optimizer evaluates other weights than it trains, of which replicas "
            f"have no mean; take another optimizer, or set it to 1"
        )


def check_padding(
    experiment: Experiment, rows: int, mesh: Mesh, task: Task, abstract: TrainState, metrics: Mapping[str, Any]
) -> None:
    """Note the masked rows of a batch that the devices do not divide.

    Raises:
        UsageError: masked rows could have a part in the result: in a state beside the parameters (batch statistics, counts),
            in losses that a module sows, where several players divide a batch, or in a loss or task of the user's, which may
            look at the whole batch.
    """
    if rows == experiment.batch_size:
        return
    own = getattr(task, "objective", None) is not None or not type(task).__module__.startswith("jaxnets.")
    if abstract.model_state or task.players or SOWN in metrics or own:
        check_batch(experiment.batch_size, mesh, micro_batches=experiment.micro_batch_count)
    note(
        f"{batch_devices(mesh)} devices share each batch of {experiment.batch_size}; it is filled up with "
        f"{rows - experiment.batch_size} masked rows, which change nothing and take {1 - experiment.batch_size / rows:.0%} of "
        f"the work"
    )


def check_health(experiment: Experiment, task: Task) -> None:
    """Raise `UsageError` if `health` cannot measure the steps: it needs one loss and one optimizer."""
    kind = type(getattr(task, "inner", task)).__name__
    if experiment.health.active and (task.players or kind == "PerceptronRule"):
        why = "has several players" if task.players else "has no gradient"
        raise UsageError(f"health.every is {experiment.health.every}, but {kind} {why}; set it to 0")


def check_batch_statistics(experiment: Experiment, abstract: TrainState, dataset: Dataset) -> None:
    """Raise `UsageError` if batch norm would get one example at a time: then every output feature is its bias."""
    alone = experiment.batch_size // experiment.micro_batch_count == 1
    if alone and "batch_stats" in abstract.model_state and len(dataset.card.input_shape) == 1:
        raise UsageError(
            f"batch_size={experiment.batch_size} with micro_batches={experiment.micro_batch_count} gives the model's batch "
            f"norm one example at a time, whose variance is 0; take more, or another norm (norm='layer')"
        )


def check_parameters(task: Task, abstract: TrainState) -> None:
    """Raise `UsageError` for a parameter that has no gradient, as whole numbers have none."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract.params):
        if not jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UsageError(
                f"{type(task.model).__name__}'s parameter {name} is {leaf.dtype}, which has no gradient; keep it in a "
                f"collection of its own, self.variable('constants', ...)"
            )


def check_mixing(task: Task, dataset: Dataset, abstract: TrainState, batch: Callable[[], Batch]) -> None:
    """Raise `UsageError` for a task whose loss cannot take the averaged targets of mixed examples.

    `batch` gives the shapes of a mixed batch.
    """
    if not dataset.augment.softens:
        return
    remedy = "leave augment.mixup and augment.cutmix out, or use Classification"
    if dataset.card.target_kind in ("class", "distribution") and not task.takes_distributions:
        raise UsageError(
            f"mixed examples have distributions over the classes as targets, which {type(task).__name__} does not take; "
            f"{remedy}"
        )
    mixed = batch()
    try:
        jax.eval_shape(lambda v, batch: task.loss(v, batch, jax.random.key(0), True), abstract.variables, mixed)
    except (TypeError, ValueError, IndexError, AssertionError, UsageError) as error:
        shape = list(mixed["targets"].shape)
        raise UsageError(
            f"the targets of mixed examples are averages, float32 of shape {shape}, which the loss of {type(task).__name__} "
            f"does not take: {error}; {remedy}, or write the loss for such targets"
        ) from error


def check_epochs(experiment: Experiment, dataset: Dataset) -> None:
    """Raise `UsageError` for flips that alternate by the epoch in a run whose epochs have no fixed number of steps."""
    if dataset.augment.alternates and experiment.ramp.batch_size:
        raise UsageError(
            f"augment.flip_order 'alternating' needs epochs of equally many steps, and ramp.batch_size "
            f"{experiment.ramp.batch_size} changes them; leave one of the two out"
        )


def check_arrays(task: Task, dataset: Dataset) -> None:
    """Raise `DataError` for an additional array of the user that would not be used."""
    known = ("inputs", "targets", *WEIGHTS, *task.reads, *(one.array for one in dataset.several))
    for split, arrays in dataset.splits.items():
        for name in arrays:
            if name not in known:
                raise DataError(
                    f"{dataset.name}: the {split} split holds an array {name!r}, which neither {type(task).__name__} nor "
                    f"{type(task.model).__name__} reads; leave it out, or use one of {', '.join(known[2:])}"
                )
        for name in set(dataset.train) - set(arrays) - {*WEIGHTS}:
            raise DataError(
                f"{dataset.name}: the training split has an array {name!r}, the {split} split has none; give it there too"
            )
