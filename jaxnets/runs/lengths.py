"""The length of a run in steps, computed when its data are opened."""

import dataclasses
import warnings

from jaxnets.config.experiment import Experiment
from jaxnets.core.durations import Clock, as_length, in_steps
from jaxnets.core.errors import DataWarning, UsageError
from jaxnets.data.dataset import Dataset
from jaxnets.data.order import steps_in
from jaxnets.data.validation import with_validation


def clock_for(dataset: Dataset, batch_size: int, *, steps: int) -> Clock:
    """The sizes by which durations in epochs, examples and tokens are converted: batches of the full size."""
    card = dataset.card
    of_tokens = card.tokens is not None or card.target_kind == "token"
    tokens = card.input_shape[0] if of_tokens and card.input_shape else None
    return Clock(steps, batch_size, card.examples["train"], tokens)


def length(steps: int | str, dataset: Dataset, batch_size: int) -> int:
    """The steps of a run: a number as it is, a duration by the training split and the batch, rounded to whole steps.

    Raises:
        UsageError: it is no duration, a share of the run, or less than a step.
        UnknownLengthError: it is in tokens, and the data have none.
    """
    steps = as_length(steps) if isinstance(steps, str) else steps
    if not isinstance(steps, str):
        return steps
    # The run's own length is not used: a share of it is refused when the duration is given.
    count = in_steps(steps, clock_for(dataset, batch_size, steps=0))
    if count < 1:
        raise UsageError(f"a run has at least one step, and {steps!r} with batches of {batch_size} is less")
    return count


def counted(experiment: Experiment, dataset: Dataset | None = None) -> Experiment:
    """The experiment with its steps as a number.

    Args:
        experiment: what to run.
        dataset: its data; opened here if they are needed and not given.
    """
    if not isinstance(experiment.steps, str):
        return experiment
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the run itself repeats them
        dataset = divided(experiment, dataset)
    return dataclasses.replace(experiment, steps=length(experiment.steps, dataset, experiment.batch_size))


def in_epochs(experiment: Experiment, epochs: float) -> tuple[Experiment, Dataset]:
    """The experiment with the steps of so many passes over the training split, and its data, opened to count them."""
    dataset = divided(experiment)
    steps = steps_in(epochs, dataset.card.examples["train"], experiment.batch_size)
    return dataclasses.replace(experiment, steps=steps), dataset


def divided(experiment: Experiment, dataset: Dataset | None = None) -> Dataset:
    """The data with the validation split of the run; opened if they are not given."""
    dataset = dataset if dataset is not None else experiment.data.open()
    return with_validation(dataset, experiment.validation, seed=experiment.seed, needed=experiment.chooses)
