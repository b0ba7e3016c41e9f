"""The data that a curve saves of each run: metrics on its training examples, and predictions."""

import io
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxnets.core.errors import DataError
from jaxnets.core.files import replacing
from jaxnets.core.types import Variables
from jaxnets.data.large import shown
from jaxnets.evidence.error_parts import Scored
from jaxnets.evidence.trials import Trial
from jaxnets.runs.build import Parts
from jaxnets.training.evaluate import Evaluator

FOLDER = "predictions"


class Seen:
    """Collects the predictions of finished runs (`search.Look`), in a directory if there is one."""

    def __init__(self, total: int, scored: Scored | None, directory: Path | None) -> None:
        """Begin with none.

        Args:
            total: training examples of the whole split.
            scored: the targets of the predictions; None: there are none.
            directory: of the curve; its predictions are in a folder of their own.
        """
        self._total, self._scored = total, scored
        self._folder = None if directory is None else directory / FOLDER
        self._known: dict[str, np.ndarray] = {}
        self._parts: Parts | None = None
        self._evaluator: Evaluator | None = None

    def __call__(self, trial: Trial, parts: Parts, variables: Variables) -> dict[str, float]:
        """The metrics of a run on its training examples; its predictions are saved."""
        if parts is not self._parts or self._evaluator is None:  # runs in one program have the same parts
            self._parts, self._evaluator = parts, parts.make_evaluator(parts.dataset.train)
        if self._scored is not None:
            self._predict(trial, parts, variables, self._scored)
        # A run that was trained alone has no other examples.
        own = parts.dataset.card.examples["train"] < self._total
        return self._evaluator.metrics(variables, rows=None if own else trial.rows(self._total))

    def _predict(self, trial: Trial, parts: Parts, variables: Variables, scored: Scored) -> None:
        form = jax.eval_shape(parts.task.outputs, parts.abstract.variables, parts.batch_spec)
        if not hasattr(form, "shape"):
            return  # several outputs
        split = parts.dataset.splits[parts.watched[0]]
        names = parts.dataset.preparation.names
        arrays = {name: array for name, array in shown(split, scored.rows).items() if name in names}
        found = scored.predictions(parts.task, parts.predictor(variables, arrays))
        if found is None:
            return
        if self._folder is None:
            self._known[trial.name] = found
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            np.save(buffer, found)
            with replacing(self._folder / f"{trial.name}.npy") as file:
                file.write(buffer.getvalue())

    def of(self, names: Sequence[str]) -> np.ndarray | None:
        """The predictions `[S, N, K]` of some runs by `Trial.name`; None if some are missing.

        Raises:
            DataError: a file of the directory cannot be read.
        """
        found = [self._read(name) for name in names]
        here = [one for one in found if one is not None]
        return np.stack(here) if here and len(here) == len(names) else None

    def _read(self, name: str) -> np.ndarray | None:
        if self._folder is None:
            return self._known.get(name)
        path = self._folder / f"{name}.npy"
        if not path.exists():
            return None
        try:
            found: np.ndarray = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} holds no predictions ({error}); remove it with its line of the results") from error
        return found
