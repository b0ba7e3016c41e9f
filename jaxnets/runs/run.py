"""A trained run: its weights, its history, its predictions and evaluations."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxnets.callbacks.callback import Callback
from jaxnets.checkpoints.retention import better
from jaxnets.checkpoints.step_folders import StepFolders
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.data.dataset import Dataset
from jaxnets.data.given import check_given, check_given_targets
from jaxnets.data.order import steps_in
from jaxnets.data.split import WEIGHTS
from jaxnets.models.layers import most_positions
from jaxnets.report.console import ProgressKind
from jaxnets.report.history import History
from jaxnets.runs.build import Parts
from jaxnets.runs.choice import Best
from jaxnets.runs.lengths import length
from jaxnets.runs.stretch import Begun
from jaxnets.steps.state import TrainState
from jaxnets.training.early_stop import EarlyStop
from jaxnets.training.evaluate import Evaluator

if TYPE_CHECKING:
    from jaxnets.runs.explain import Explain


@dataclasses.dataclass
class Run:
    """A trained experiment: its weights, its history, its predictions and evaluations."""

    parts: Parts
    """What the experiment was built into: data, task, step, mesh."""
    state: TrainState
    """The training state after the last step."""
    history: History
    """The logged numbers of training and of evaluations."""
    directory: Path | None
    """The run directory, if it has one."""
    best: Best | None = None
    """The weights of the best evaluation, if the run chose by evaluations (`stop`, `keep.best`)."""

    @property
    def experiment(self) -> Experiment:
        """What was run."""
        return self.parts.experiment

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params": ..., ...}` for the model's `apply`: of the best evaluation if the run chose by evaluations, else of the
        last step; averaged if the run averages."""
        return self.state.best_variables if self.best is None else self.best.variables

    @property
    def params(self) -> Any:
        """The parameters in `variables`: `run.parts.task.model.apply({"params": run.params}, x)`."""
        return self.variables["params"]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes or labels; () if the targets are numbers."""
        return self.parts.dataset.card.class_names

    def outputs(self, inputs: Any) -> np.ndarray:
        """The model's raw outputs (logits, say) for raw inputs `[N, ...]`, float32.

        Where the model takes more than one array (a graph's edges, say), give a dict of them, as in `Dataset.test`; several
        inputs have the form that they had in training.
        """
        return self._asked(inputs, np.asarray)

    def predict(self, inputs: Any, *, names: bool = False) -> np.ndarray:
        """Predictions for raw inputs (as for `outputs`) in the targets' own terms: class numbers, or values in their unit.

        Args:
            inputs: raw inputs of any number; they are computed in batches.
            names: give the names of classes instead of their numbers; for several labels, a list of names for each example.
        """
        found = self._asked(inputs, self.parts.task.decide)
        return self.named(found) if names else found

    def named(self, predictions: np.ndarray) -> np.ndarray:
        """Predictions with the names of their classes or labels; raises `UsageError` if these have no names."""
        kind, known = self.parts.dataset.card.target_kind, np.array(self.class_names, object)
        if kind in ("class", "distribution"):
            return known[predictions]
        if kind == "labels":
            rows = np.empty(len(predictions), object)
            rows[:] = [known[row > 0].tolist() for row in predictions]
            return rows
        raise UsageError(f"names are those of classes or labels, and the targets here are of kind {kind!r}")

    def probabilities(self, inputs: Any) -> np.ndarray:
        """Probabilities of the classes or labels for raw inputs (as for `outputs`), `[N, C]` float32.

        Raises:
            UsageError: the task has none, as a regression.
        """
        task = self.parts.task
        if task.probabilities(np.zeros((1, 2), np.float32)) is None:
            raise UsageError(f"{type(task).__name__} gives no probabilities; ask for `outputs` or `predict`")
        return self._asked(inputs, lambda outputs: np.asarray(task.probabilities(outputs)))

    def top_k(self, inputs: Any, k: int = 5) -> list[list[tuple[str, float]]]:
        """For each example its `k` most probable classes with their probabilities, the most probable first."""
        count = len(self.class_names)
        if not 1 <= k <= max(count, 1):
            raise UsageError(f"k is from 1 to {count}, the number of classes; got {k}")
        found = self.probabilities(inputs)
        if found.ndim != 2:
            raise UsageError(
                f"{type(self.parts.task).__name__} gives more than one prediction for an example; use probabilities"
            )
        found = found[:, :count]
        order = np.argsort(-found, axis=1, kind="stable")[:, :k]
        return [
            [(self.class_names[c], float(row[c])) for c in best.tolist()]
            for row, best in zip(found, order, strict=True)
        ]

    def _asked(self, inputs: Any, decide: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        arrays = check_given(inputs, self.parts.dataset.preparation, most_positions(self.parts.task.model))
        with jax.set_mesh(self.parts.mesh):
            return self.parts.predictor(self.variables, arrays, decide=decide)

    @property
    def explain(self) -> "Explain":
        """Explanations of the predictions: `run.explain.saliency(inputs).plot()`, `nearest`, `influence` and others."""
        from jaxnets.runs.explain import Explain

        return Explain(self)

    def evaluate(self, data: Literal["test", "validation"] | Any = "test") -> dict[str, float]:
        """The task's metrics over a whole split, or over other data, of `variables`.

        Args:
            data: "test", "validation", a pair `(inputs, targets)` of raw arrays as they were given for training, a dict of
                arrays as in `Dataset.test`, or a `Dataset`, of which the test split is used.

        Raises:
            UsageError: the run was opened without its data, or has no validation split.
            DataError: the arrays are not of the kind of the training data.
        """
        if not isinstance(data, str):
            evaluator = self._evaluator(data)
        else:
            if self.parts.dataset.hollow:
                raise UsageError(
                    f"{self.directory} was trained on arrays that only its program held, so there is no test split here; "
                    f"give them again, open_run(directory, dataset=from_arrays(...)), or run.evaluate((inputs, targets))"
                )
            known = {"test": self.parts.evaluator, "validation": self.parts.validator}
            found = known.get(data)
            if found is None:
                raise UsageError(
                    f"this run has no split {data!r}; ask for 'test', or give validation= where it is trained"
                )
            evaluator = found
        with jax.set_mesh(self.parts.mesh):
            return evaluator.metrics(self.variables)

    def _evaluator(self, data: Any) -> Evaluator:
        """An evaluator for the given data."""
        preparation = self.parts.dataset.preparation
        if isinstance(data, Dataset):
            for what in ("class_names", "columns", "tokens", "several"):
                if getattr(data, what) != getattr(preparation, what):
                    raise UsageError(
                        f"{data.name!r} is encoded by other {what} than the data of the run, {preparation.name!r}; give its "
                        f"raw arrays: run.evaluate((inputs, targets))"
                    )
            data = data.test
        if isinstance(data, tuple | list) and len(data) == 2:
            data = {**_arrays(data[0]), "targets": data[1]}
        if not isinstance(data, Mapping) or "targets" not in data:
            raise UsageError(
                f"evaluate takes 'test', 'validation', (inputs, targets), a dict with 'targets' or a Dataset; got "
                f"{type(data).__name__}"
            )
        rest = {name: array for name, array in data.items() if name not in ("targets", *WEIGHTS)}
        given = rest["inputs"] if set(rest) == {"inputs"} else rest
        arrays = dict(check_given(given, preparation, most_positions(self.parts.task.model)))
        arrays["targets"] = check_given_targets(data["targets"], preparation, len(arrays["inputs"]))
        arrays |= {name: np.asarray(data[name]) for name in WEIGHTS if name in data}
        return self.parts.make_evaluator(arrays)

    def fit(
        self,
        *,
        steps: int | str | None = None,
        epochs: float | None = None,
        stop: EarlyStop | None = None,
        hooks: Sequence[Callback] = (),
        loggers: Sequence[Any] = (),
        progress: ProgressKind = "auto",
    ) -> "Run":
        """Train further and return the longer run; this one is not changed. A run with a directory continues there. The
        schedule of the learning rate spans all steps, so it may change at this point; the console prints the change. A run
        that ended early continues without `stop`, unless one is given.

        Args:
            steps: further steps, or a duration such as "2ep".
            epochs: or further passes over the training data.
            stop: when to end early, counted over all evaluations.
            hooks: as in `jaxnets.fit`.
            loggers: likewise.
            progress: likewise.

        Raises:
            UsageError: neither steps nor epochs, or both; `stop` without a validation split; the run was opened without its
                data; or its directory has other steps than the run.
        """
        if (steps is None) == (epochs is None):
            raise UsageError(f"give steps= or epochs=, one of them (got steps={steps}, epochs={epochs})")
        if epochs is not None:
            steps = steps_in(epochs, self.parts.dataset.card.examples["train"], self.experiment.batch_size)
        if isinstance(steps, str):
            steps = length(steps, self.parts.dataset, self.experiment.batch_size)
        if steps is None or steps < 1:
            raise UsageError(f"steps is at least 1, got {steps}")
        if self.parts.dataset.hollow:
            raise UsageError("this run was opened without its data; give them: open_run(directory, dataset=...)")
        from jaxnets.runs.train import train

        at = int(self.state.step)
        if self.directory is not None:  # the weights of `best` may be of an earlier step than the run's last
            at = max(StepFolders(self.directory / "checkpoints").complete, default=0)
            if self.best is None and at != int(self.state.step):
                raise UsageError(
                    f"{self.directory} has continued to step {at}, and this run is of step {int(self.state.step)}; open the "
                    f"directory again"
                )
        if stop is not None and self.parts.validator is None:
            raise UsageError(
                "stop looks at a validation split, and this run has none; give validation= where it begins"
            )
        begun = None
        if self.directory is None:
            begun = Begun(jax.tree.map(jnp.copy, self.state), at, records=tuple(self.history.records))
        longer = train(
            self._longer(at, steps, stop),
            dataset=self.parts.dataset,
            mesh=self.parts.mesh,
            run_dir=self.directory,
            extend=True,
            begun=begun,
            hooks=hooks,
            loggers=loggers,
            progress=progress,
        )
        return _with_better(longer, self.best) if self.directory is None else longer

    def _longer(self, at: int, steps: int, stop: EarlyStop | None) -> Experiment:
        """The experiment with the given number of steps after those that are done."""
        choice = self.parts.choice
        early = choice.ends_at(self.history.records, self.parts.watched[0]) is not None
        changes: dict[str, Any] = {"steps": at + steps}
        if stop is not None:
            changes["stop"] = stop
        elif choice.stop.patience and early:
            changes |= {"stop": EarlyStop(patience=0), "keep": choice.keep}
        return dataclasses.replace(self.experiment, **changes)

    def __repr__(self) -> str:
        name = type(self.parts.task.model).__name__
        return f"Run({name} on {self.parts.dataset.name}, {int(self.state.step)} steps, {self.history!r})"


def _arrays(inputs: Any) -> Mapping[str, Any]:
    """Inputs as a dict of arrays, if they are one already, else under the name `inputs`."""
    return inputs if isinstance(inputs, Mapping) and "inputs" in inputs else {"inputs": inputs}


def _with_better(run: Run, before: Best | None) -> Run:
    """A run with the better of its best weights and those of the run that it continues."""
    if before is None or run.parts.choice.keep.best != before.metric:
        return run
    mode = run.parts.choice.keep.direction
    if run.best is None or not better(run.best.value, before.value, mode):
        run.best = before
    return run
