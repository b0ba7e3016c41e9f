"""From an experiment to the parts that run it: data, mesh, bound task, compiled program, evaluator."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from jaxnets.config.experiment import Experiment
from jaxnets.core.durations import Clock
from jaxnets.core.errors import DataError, JaxnetsError, UsageError
from jaxnets.core.types import Batch
from jaxnets.data.augment import Augment
from jaxnets.data.dataset import Arrays, Dataset
from jaxnets.data.feed import Feed, ResidentFeed, StreamFeed, Transform
from jaxnets.data.order import Order, Padded, Shuffled
from jaxnets.data.validation import with_validation
from jaxnets.models.layered import Layers, with_layers
from jaxnets.ops.beyond_promise import quick_compilation
from jaxnets.optim.optimizers import Optimizer
from jaxnets.optim.schedules import with_clock
from jaxnets.parallel.host_memory import keep_freed_memory
from jaxnets.parallel.mesh import batch_devices, make_mesh, padded_batch, placement
from jaxnets.parallel.partition import gradient_shardings, on_device, shardings
from jaxnets.runs import checks
from jaxnets.runs.choice import Choice, choice_of
from jaxnets.runs.lengths import clock_for, counted
from jaxnets.runs.micro_batches import with_fewest
from jaxnets.runs.stages import in_stages
from jaxnets.steps.local import whole_step
from jaxnets.steps.recipe import Recipe
from jaxnets.steps.state import TrainState
from jaxnets.tasks.base import Task, bound
from jaxnets.tasks.call_errors import about_call
from jaxnets.training.evaluate import Evaluator, Predictor
from jaxnets.training.initial import abstract_state, create_state
from jaxnets.training.program import Program, choose_steps_per_call
from jaxnets.training.stages import StagedProgram

# Up to this size a data set is kept on the device.
RESIDENT_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Parts:
    """All parts of a run; built once, before the first step."""

    experiment: Experiment
    dataset: Dataset
    mesh: Mesh
    task: Task
    recipe: Recipe
    feed: Feed
    """Of batches of the full sizes."""
    program: Program | StagedProgram
    evaluator: Evaluator
    """On the test split."""
    validator: Evaluator | None
    """On the validation split; None if there is none."""
    choice: Choice
    """The choices that are made by evaluations."""
    predictor: Predictor
    abstract: TrainState
    """Shapes and dtypes of the state."""
    shardings: Any
    """Where each leaf of the state goes."""
    resident: bool
    """Whether the data are on the device."""
    batch_spec: Batch
    """Shapes and dtypes of a prepared batch."""

    @property
    def watched(self) -> tuple[str, Evaluator]:
        """The split that is measured during training, and its evaluator."""
        return ("test", self.evaluator) if self.validator is None else ("validation", self.validator)

    def fresh_state(self) -> TrainState:
        """The state at step 0, created with its shardings: no device ever holds more than its share."""
        batch = self.batch_spec
        create = jax.jit(
            lambda: create_state(self.task, self.recipe, batch),
            out_shardings=self.shardings,
            # It runs once: on the CPU optimising it takes four times as long as it could ever save.
            compiler_options=quick_compilation(self.mesh.devices.flat[0].platform),
        )
        return create()

    def make_evaluator(self, arrays: Arrays) -> Evaluator:
        """An evaluator for further examples: raw arrays by name, with `inputs` and `targets`."""
        count = len(arrays["inputs"])
        return Evaluator(
            self.task,
            arrays,
            self.dataset.preparation,
            batch_size=eval_batch(self.experiment.eval_batch_size, count, self.mesh),
            placement=placement(self.mesh),
            precision=self.experiment.precision,
            resident=False,
        )

    @property
    def parameters(self) -> int:
        """Numbers in the model's parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.abstract.params))


def assemble(
    experiment: Experiment, dataset: Dataset | None = None, *, mesh: Mesh | None = None, memory: int | None = None
) -> Parts:
    """Build the parts. User errors are found here, before any work is done.

    Args:
        experiment: what to run.
        dataset: the data, where they are not to be opened from `experiment.data`.
        mesh: the devices, where they are not to be arranged by `experiment.mesh`.
        memory: bytes of a device, for `micro_batches="auto"`; None: those of the present devices.
    """
    dataset = dataset if dataset is not None else experiment.data.open()
    dataset = with_validation(dataset, experiment.validation, seed=experiment.seed, needed=experiment.chooses)
    experiment = counted(experiment, dataset)
    mesh = make_mesh(experiment.mesh) if mesh is None else mesh
    if experiment.micro_batches == "auto":
        return with_fewest(experiment, mesh, lambda decided: _assemble(decided, dataset, mesh), memory=memory)
    return _assemble(experiment, dataset, mesh)


def _assemble(experiment: Experiment, dataset: Dataset, mesh: Mesh) -> Parts:
    """The parts of an experiment whose numbers are known, with data whose splits are made."""
    task = _task(experiment, dataset)
    if mesh.devices.flat[0].platform == "cpu":
        keep_freed_memory()
    rows = padded_batch(experiment.batch_size, mesh, micro_batches=experiment.micro_batch_count)
    recipe = _recipe(experiment, task, dataset)
    place = placement(mesh)
    small = not dataset.lazy and dataset.nbytes <= RESIDENT_BYTES
    resident = experiment.placement == "device" or (experiment.placement == "auto" and small)
    shuffled = Shuffled(dataset.card.examples["train"], experiment.batch_size, experiment.seed)
    order: Order = Padded(shuffled, rows) if rows != experiment.batch_size else shuffled
    checks.check_epochs(experiment, dataset)
    preparation = dataset.preparation
    transform = Transform(preparation, task.encode_targets, dataset.augment, experiment.seed, shuffled.steps_per_epoch)
    batch = batch_spec(dataset, rows, transform)
    checks.check_pipeline(task.model, mesh)
    with jax.set_mesh(mesh):
        abstract = _abstract(task, recipe, batch, dataset)
        checks.check_mixing(task, dataset, abstract, lambda: batch_spec(dataset, rows, transform, mixed=True))
        if task.players:
            experiment.optimizer.frozen(abstract.params)  # reports the patterns that match no player
        checks.check_arrays(task, dataset)
        checks.check_health(experiment, task)
        zero = experiment.mesh.zero
        if not task.players:  # each has gradients of its own
            gradients = gradient_shardings(abstract.params, mesh, zero=zero)
            recipe = dataclasses.replace(recipe, gradients=gradients, sums_whole=zero == 1)
        placed = shardings(abstract, mesh, zero=zero, offload=experiment.mesh.offload)
        if experiment.mesh.offload == "optimizer":
            checks.check_offload(experiment, task, abstract)
            recipe = dataclasses.replace(recipe, optimizer_home=(placed.opt_state, on_device(placed.opt_state)))
        choice = choice_of(experiment, task, abstract, batch)
        checks.check_replicas(experiment, abstract, mesh)
        checks.check_decay(experiment.optimizer, abstract)
        checks.check_updates(experiment, abstract, recipe)
        checks.check_batch_statistics(experiment, abstract, dataset)
        # Traced twice, to count its work and to compile it: as a function of its own it is traced once.
        step = jax.jit(whole_step(task, recipe), inline=True)
        checks.check_padding(experiment, rows, mesh, task, abstract, jax.eval_shape(step, abstract, batch)[1])
        checks.check_axes(task, placed, mesh)
        feed = (ResidentFeed if resident else StreamFeed)(dataset.train, order, transform, place)
        # No call is longer than the way from one log record to the next.
        many = min(experiment.steps_per_call or choose_steps_per_call(step, abstract, batch), experiment.log_every)
        whole = Program(step, feed, steps_per_call=many, state_shardings=placed)
        program = in_stages(whole, experiment, clock_of(experiment, dataset), task, mesh, step, abstract, batch)
    eval_size = eval_batch(experiment.eval_batch_size, dataset.card.examples["test"], mesh)
    common: dict[str, Any] = {"batch_size": eval_size, "placement": place, "precision": experiment.precision}
    evaluator = Evaluator(task, dataset.test, preparation, resident=resident, **common)
    held = dataset.validation
    validator = None if held is None else Evaluator(task, held, preparation, resident=resident, **common)
    return Parts(
        experiment=experiment,
        dataset=dataset,
        mesh=mesh,
        task=task,
        recipe=recipe,
        feed=feed,
        program=program,
        evaluator=evaluator,
        validator=validator,
        choice=choice,
        predictor=Predictor(task, preparation, **common),
        abstract=abstract,
        shardings=placed,
        resident=resident,
        batch_spec=batch,
    )


def clock_of(experiment: Experiment, dataset: Dataset) -> Clock:
    """The sizes by which durations in epochs, examples and tokens are converted: batches of the full size."""
    return clock_for(dataset, experiment.batch_size, steps=experiment.total_steps)


def _recipe(experiment: Experiment, task: Task, dataset: Dataset) -> Recipe:
    """The recipe of an experiment's step, without shardings, which are not known yet."""
    if experiment.selective < 1 and task.players:
        raise UsageError(
            f"selective chooses examples by one loss, and {type(task).__name__} has one for each of "
            f"{' and '.join(task.players)}; leave selective at 1"
        )
    clock = clock_of(experiment, dataset)
    optimizer, average = with_clock(experiment.optimizer, clock), with_clock(experiment.average, clock)
    return Recipe(
        optimizer=optimizer.build(experiment.total_steps),
        seed=experiment.seed,
        micro_batches=experiment.micro_batch_count,
        precision=experiment.precision,
        average=average.in_run(experiment.total_steps),
        local=experiment.local,
        selective=experiment.selective,
        initialiser=experiment.initialiser,
        health=experiment.health,
        frozen=optimizer.frozen,
        players=_players(optimizer, task, experiment.total_steps),
        gradient=experiment.gradient,
        penalty=experiment.penalty,
        rate=optimizer.rate_at(experiment.total_steps),
        steps=experiment.total_steps,
    )


def _task(experiment: Experiment, dataset: Dataset) -> Task:
    """The task for these data, with the changes in the layers of its model."""
    task = bound(experiment.task, dataset.card)
    return task if experiment.layers == Layers() else task.with_model(with_layers(task.model, experiment.layers))


def eval_batch(wanted: int, examples: int, mesh: Mesh) -> int:
    """Examples in an evaluation batch: any multiple of the devices gives the same result."""
    shares = batch_devices(mesh)
    return -(-min(wanted, examples) // shares) * shares


def batch_spec(dataset: Dataset, batch_size: int, transform: Transform | None = None, *, mixed: bool = False) -> Batch:
    """Shapes and dtypes of a prepared batch; `transform` is that of the task, if it encodes targets.

    With `mixed` it is a batch after the augmentation, which turns classes into distributions if it mixes examples.
    """
    plain = transform or Transform(dataset.preparation)
    plain = plain if mixed else dataclasses.replace(plain, augment=Augment())
    first = plain.on_host({name: array[:1] for name, array in dataset.train.items()})
    sent: Batch = {name: jax.ShapeDtypeStruct((batch_size, *a.shape[1:]), a.dtype) for name, a in first.items()}
    sent["mask"] = jax.ShapeDtypeStruct((batch_size,), jax.numpy.float32)
    sent["index"] = jax.ShapeDtypeStruct((batch_size,), jax.numpy.int32)
    return jax.eval_shape(plain.on_device, sent, jax.ShapeDtypeStruct((), jax.numpy.int32))


def _players(optimizer: Optimizer, task: Task, steps: int) -> dict[str, Any]:
    """The optimizer of each player of a task, and which of its parameters are frozen."""
    own = {who: optimizer.under(who) for who in task.players}
    return {who: (part.build(steps), part.frozen) for who, part in own.items()}


def _abstract(task: Task, recipe: Recipe, batch: Batch, dataset: Dataset) -> TrainState:
    """The state's shapes; a model that does not fit the data raises an error here, before anything is compiled."""
    try:
        state = abstract_state(task, recipe, batch)
        task.check_outputs(state.variables, batch, dataset.card)
        checks.check_parameters(task, state)
        return state
    except JaxnetsError:
        raise
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, ZeroDivisionError, AssertionError) as error:
        # Any exception of a model for unsuitable inputs; its own checks raise a ValueError.
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise DataError(
            f"{type(task.model).__name__} cannot take the inputs of {dataset.name!r}, each of shape "
            f"{dataset.card.input_shape}: {said}{_about_integers(batch, dataset)}. "
            f"{about_call(task.model, task.inputs_of(batch))}"
        ) from error


def _about_integers(batch: Batch, dataset: Dataset) -> str:
    """The remedy if a model may have expected the whole numbers that were given."""
    if dataset.several:
        return ""
    given, prepared = dataset.train["inputs"].dtype, batch["inputs"].dtype
    if not (jax.numpy.issubdtype(given, jax.numpy.integer) and jax.numpy.issubdtype(prepared, jax.numpy.floating)):
        return ""
    return (
        f". The inputs are {given}, which were standardised as quantities; if they are tokens or categories, keep them by "
        f"from_arrays(..., input_kind='tokens')"
    )
