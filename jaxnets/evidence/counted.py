"""Converts the lengths of trials to steps if they are in epochs, examples or tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxnets.data.dataset import Dataset
from jaxnets.evidence.trials import Trial
from jaxnets.runs.lengths import counted


def counted_trials(made: Sequence[Trial], dataset: Dataset | None) -> list[Trial]:
    """The trials with their steps as numbers, each counted by its own batch.

    Args:
        made: the trials.
        dataset: their data; None: opened when they are needed, once for consecutive trials with the same data.
    """
    found: list[Trial] = []
    source: Any = None
    for trial in made:
        experiment = trial.experiment
        if isinstance(experiment.steps, str):
            if source is None or source != experiment.data:
                source, opened = experiment.data, experiment.data.open() if dataset is None else dataset
            trial = dataclasses.replace(trial, experiment=counted(experiment, opened))
        found.append(trial)
    return found
