"""A trial of a configuration before the run itself."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnets.callbacks.callback import Callback
from jaxnets.checkpoints.initial import Initial
from jaxnets.config.experiment import Experiment
from jaxnets.data.validation import take
from jaxnets.report.console import ProgressKind
from jaxnets.runs.lengths import divided
from jaxnets.runs.train import train


def smoke(
    experiment: Experiment,
    *,
    initial: Initial | None = None,
    hooks: Sequence[Callback] = (),
    progress: ProgressKind = "auto",
    title: str = "",
) -> None:
    """Two steps with all parts of a run: training, evaluation, a checkpoint, a resumed step, the report.

    It has the model, the batches and the mesh of the run, and two evaluation batches of each split. All files are deleted.

    Raises:
        JaxnetsError: whatever the run itself would raise in these steps.
    """
    short = dataclasses.replace(
        experiment, steps=2, log_every=1, eval_every=1, save_every=1, sample_every=min(1, experiment.sample_every)
    )
    dataset = divided(experiment)
    few = 2 * experiment.eval_batch_size
    held: dict[str, Any] = {
        split: take(arrays, np.arange(min(few, len(arrays["inputs"]))))
        for split in ("test", "validation")
        if (arrays := getattr(dataset, split)) is not None
    }
    dataset = dataclasses.replace(dataset, **held)
    with tempfile.TemporaryDirectory(prefix="jaxnets-smoke-") as folder:
        for stop_at in (1, None):  # the second resumes from the checkpoint of the first
            train(
                short,
                dataset=dataset,
                run_dir=Path(folder) / "run",
                stop_at=stop_at,
                initial=initial,
                hooks=hooks,
                progress=progress,
                title=title,
            )
