"""All checks of an experiment before its first step, as one report."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxnets.checkpoints.begin import begin_from
from jaxnets.checkpoints.initial import Initial, begin_with
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import DataWarning, JaxnetsError, UsageError, did_you_mean, first_line
from jaxnets.data.dataset import Dataset
from jaxnets.data.large import gather
from jaxnets.optim.local_sgd import LocalSGD
from jaxnets.parallel.mesh import MeshShape, make_mesh
from jaxnets.preflight.checks import CHECKS, Check
from jaxnets.preflight.features import row_bytes
from jaxnets.preflight.finding import CheckReport, Finding, red, skipped
from jaxnets.preflight.subject import Subject, known_rows, prepare
from jaxnets.runs.build import Parts, assemble

# Numbers in the inputs of a batch of the checks, at most: fewer examples are taken where each is large.
LARGE = 2_000_000
# Training examples of the controls, likewise.
POOL = 256


def check_experiment(
    experiment: Experiment,
    *,
    dataset: Dataset | None = None,
    initial: Initial | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    examples: int = 16,
    seconds: float = 6.0,
    say: Callable[[str], None] = lambda text: None,
    title: str = "",
) -> CheckReport:
    """Make the checks of `CHECKS` on one device and return their findings. Nothing is written, nothing is changed.

    Args:
        experiment: what is to be run; its mesh, micro-batches and replicas are left out.
        dataset: the data, where they are not to be opened from `experiment.data`.
        initial: weights to begin with.
        only: names of the checks to make; (): all.
        skip: names of checks to leave out, for what a model does by design.
        examples: training examples that the model sees; fewer where they are large.
        seconds: the most that learning these by heart may take, without compilation.
        say: takes the title of each check before the check is made.
        title: name for the report; by default the model and the data.

    Raises:
        UsageError: there is no check of a name, or too few examples.
    """
    chosen = _chosen(only, skip)
    if examples < 4:
        raise UsageError(f"examples is at least 4, got {examples}")
    began = time.perf_counter()
    small = dataclasses.replace(experiment, mesh=MeshShape(), local=LocalSGD(), micro_batches=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the run itself says them
        try:
            dataset = experiment.data.open() if dataset is None else dataset
            parts = assemble(small, dataset, mesh=make_mesh(MeshShape(), devices=jax.devices()[:1]))
            title = title or f"{type(parts.task.model).__name__} on {parts.dataset.name}"
            with jax.set_mesh(parts.mesh):
                subject = _subject(parts, initial, examples, seconds)
                findings = tuple(_made(check, subject, say) for check in chosen)
        except JaxnetsError as error:
            findings = (_refused(error),)
    return CheckReport(title or type(experiment.task.model).__name__, findings, time.perf_counter() - began)


def _refused(error: JaxnetsError) -> Finding:
    """What the run itself would say before its first step."""
    finding = red(f"the run refuses to begin: {error}", "The other checks need a run that begins.")
    return dataclasses.replace(finding, check="shapes", title=CHECKS[0].title)


def _chosen(only: Sequence[str], skip: Sequence[str]) -> tuple[Check, ...]:
    names = [check.name for check in CHECKS]
    for name in (*only, *skip):
        if name not in names:
            raise UsageError(f"there is no check {name!r}. {did_you_mean(name, names)}")
    return tuple(check for check in CHECKS if (not only or check.name in only) and check.name not in skip)


def _made(check: Check, subject: Subject, say: Callable[[str], None]) -> Finding:
    """One check; an error in the check itself is reported, and says nothing against the run."""
    say(check.title)
    began = time.perf_counter()
    try:
        finding = check.run(subject)
    except JaxnetsError as error:
        finding = red(str(error), "The run will meet it too.")
    except Exception as error:  # whatever a user's model or loss does with these batches
        finding = skipped(f"it could not be made ({type(error).__name__}: {first_line(error, most=160)})")
    return dataclasses.replace(finding, check=check.name, title=check.title, seconds=time.perf_counter() - began)


def _subject(parts: Parts, initial: Initial | None, examples: int, seconds: float) -> Subject:
    """The state at step 0 and two small batches of different training examples."""
    dataset, experiment = parts.dataset, parts.experiment
    known = known_rows(dataset.train)
    size = max(1, int(np.prod(dataset.train["inputs"].shape[1:])))
    wanted = max(4, min(examples, LARGE // size))
    many = max(2 * wanted, min(POOL, LARGE // size))
    rows = _different(dataset, np.random.default_rng(experiment.seed).permutation(known), 2 * wanted, many)
    half = max(1, len(rows) // 2) if len(rows) < 2 * wanted else wanted
    first, second = rows[:half], rows[half : 2 * half] if len(rows) > 1 else rows
    state = parts.fresh_state()
    if experiment.warm_start.active:
        state, _, _ = begin_from(experiment.warm_start, state, parts.shardings)
    if initial is not None:
        state, _ = begin_with(initial, state, parts.shardings)
    batch, other = (prepare(parts, gather(dataset.train, chosen), chosen) for chosen in (first, second))
    given = initial is not None or experiment.warm_start.active
    return Subject(parts, state, batch, other, gather(dataset.train, rows), rows, seconds, given)


def _different(dataset: Dataset, order: np.ndarray, least: int, most: int) -> np.ndarray:
    """Rows in this order whose inputs differ, as far as there are some: equal ones may have different targets."""
    tried = order[: max(4 * least, 2 * most)]
    first: dict[bytes, int] = {}
    for row, one in zip(tried.tolist(), row_bytes(gather(dataset.train, tried)), strict=True):
        first.setdefault(one, row)
    return np.array([*first.values()][:most])
